"""The time of one global mask update of ResNet-50: 25.5 million weights, 54 kernels.

    python -m benchmarks.mask_update --out=benchmarks/results/mask_update.json

The weights lie in TensorFlow variables and change before every round. Each round runs
all arms in turn, in one process:

    update          ours: read the variables without a copy, `keep_largest`, count the
                    flips, assign the masks; `select`, `flips` and `assign` are its
                    parts
    assign_shared   the same masks assigned through DLPack, which copies nothing
    partition       `np.partition` over the magnitudes, concatenated beforehand;
                    `abs` makes the magnitudes from the weights
    control         `np.partition` once more: its distance from 1 is the noise of a
                    ratio
    sort            a full `tf.sort` per kernel, as TFMOT finds a layer's threshold; it
                    ranks within layers only (in some rounds, being slow)
    xla             `keep_largest_xla` compiled for the CPU (in some rounds)

Ratios are medians over rounds, relative to the median of `abs` + `partition`: what the
plain NumPy way costs before it has written a mask. The first round is left out and told
apart. The count is checked in every round, and in every slow one the masks of both
forms are compared bit for bit.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks import record
from dpf_tf.allocation import keep_count
from dpf_tf.threshold import count_flips, keep_largest
from dpf_tf.threshold_xla import keep_largest_xla

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "JSON file for the results; without it, only printed.")
flags.DEFINE_integer("rounds", 15, "Rounds of all arms in turn.", lower_bound=1)
flags.DEFINE_integer("slow", 5, "Slow arms run in every so manieth round.", 1)
flags.DEFINE_multi_float("sparsity", [0.5, 0.9], "Sparsities to measure.")

# Of the update, relative to `abs` + `partition`.
TARGET = 0.5


def resnet50_shapes() -> Iterator[tuple[int, ...]]:
    """Yields the shapes of the 53 convolutions and the dense layer of ResNet-50."""
    yield 7, 7, 3, 64
    channels = 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            if block == 0:
                yield 1, 1, channels, 4 * width  # The shortcut.
            yield 1, 1, channels, width
            yield 3, 3, width, width
            yield 1, 1, width, 4 * width
            channels = 4 * width
    yield channels, 1000


@tf.function
def masks_by_sorting(kernels: list[tf.Tensor], sparsity: tf.Tensor) -> list[tf.Tensor]:
    """Returns the masks of kernels, each sorted to find its threshold."""
    masks = []
    for kernel in kernels:
        magnitudes = tf.abs(kernel)
        size = tf.cast(tf.size(magnitudes), tf.float32)
        keep = tf.cast(tf.round(size * (1 - sparsity)), tf.int32)
        ordered = tf.sort(tf.reshape(magnitudes, [-1]), direction="DESCENDING")
        masks.append(magnitudes >= ordered[keep - 1])
    return masks


@tf.function(jit_compile=True)
def masks_by_xla(kernels: list[tf.Tensor], keep: tf.Tensor) -> list[tf.Tensor]:
    return keep_largest_xla(kernels, keep)[0]


class Stopwatch:
    """Collects the wall and CPU times of named pieces of work."""

    def __init__(self) -> None:
        self.times: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def __call__(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work(*arguments)
        spent = time.perf_counter() - wall, time.process_time() - cpu
        self.times[name].append(spent)
        return result

    def add(self, name: str, parts: tuple[str, ...]) -> None:
        """Adds the sum of the latest times of `parts`."""
        latest = [self.times[part][-1] for part in parts]
        self.times[name].append((sum(t[0] for t in latest), sum(t[1] for t in latest)))


def view(variable: tf.Variable) -> np.ndarray:
    """Returns a variable's memory as an array."""
    return np.asarray(memoryview(variable.read_value()))


def select(weights: list[tf.Variable], keep: int) -> list[np.ndarray]:
    return keep_largest([view(weight) for weight in weights], keep)


def flipped(variables: list[tf.Variable], masks: list[np.ndarray]) -> int:
    return count_flips([view(variable) for variable in variables], masks)


def assign(variables: list[tf.Variable], masks: list[np.ndarray]) -> None:
    for variable, mask in zip(variables, masks, strict=True):
        variable.assign(mask)


def assign_shared(variables: list[tf.Variable], masks: list[np.ndarray]) -> None:
    for variable, mask in zip(variables, masks, strict=True):
        variable.assign(tf.experimental.dlpack.from_dlpack(mask.__dlpack__()))


def fetched(function: Callable[..., Any], *arguments: Any) -> list[np.ndarray]:
    """Calls a function of tensors and waits for its masks."""
    return [mask.numpy() for mask in function(*arguments)]


def measure(sparsity: float) -> dict[str, Any]:
    """Runs all rounds at one sparsity."""
    rng = np.random.default_rng(0)
    shapes = list(resnet50_shapes())
    scales = [math.sqrt(2 / math.prod(shape[:-1])) for shape in shapes]
    total = sum(map(math.prod, shapes))
    keep = keep_count(total, sparsity, len(shapes))

    def noise(shape: tuple[int, ...], scale: float) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) * np.float32(scale)

    weights = [tf.Variable(noise(*pair)) for pair in zip(shapes, scales, strict=True)]
    masks = [tf.Variable(tf.ones(shape, tf.bool)) for shape in shapes]
    watch, flips = Stopwatch(), []
    for turn in range(FLAGS.rounds):
        for weight, scale in zip(weights, scales, strict=True):
            weight.assign_add(noise(weight.shape, 0.01 * scale))

        new = watch("select", select, weights, keep)
        flips.append(watch("flips", flipped, masks, new))
        watch("assign", assign, masks, new)
        watch.add("update", ("select", "flips", "assign"))
        watch("assign_shared", assign_shared, masks, new)
        watch.add("update_shared", ("select", "flips", "assign_shared"))
        assert sum(np.count_nonzero(mask) for mask in new) == keep

        flat = np.concatenate([view(weight).reshape(-1) for weight in weights])
        magnitudes = watch("abs", np.abs, flat)
        for name in ("partition", "control")[:: 1 if turn % 2 else -1]:
            watch(name, np.partition, magnitudes, total - keep)
        watch.add("abs_partition", ("abs", "partition"))
        del flat, magnitudes

        if turn % FLAGS.slow == 0:
            tensors = [weight.read_value() for weight in weights]
            found = watch("xla", fetched, masks_by_xla, tensors, tf.constant(keep))
            assert all(map(np.array_equal, found, new))
            watch("sort", fetched, masks_by_sorting, tensors, tf.constant(sparsity))
    return {
        "sparsity": sparsity,
        "weights": total,
        "kernels": len(shapes),
        "kept": keep,
        "median_flips": statistics.median(flips),
        "equal_bit_for_bit": True,  # Asserted above, as is the count.
        **summary(watch.times),
    }


def summary(times: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Returns seconds and ratios; the first call of each arm is told apart."""
    later = {name: spent[1:] or spent for name, spent in times.items()}
    reference = median(later["abs_partition"])
    partition = median(later["partition"])
    least_reference = least(later["abs_partition"])
    return {
        "arms": {
            name: {
                "rounds": len(spent),
                "median_seconds": median(spent)[0],
                "min_seconds": least(spent),
                "median_cpu_seconds": median(spent)[1],
                "first_call_seconds": times[name][0][0],
                "ratio_to_abs_partition": median(spent)[0] / reference[0],
                "min_ratio_to_abs_partition": least(spent) / least_reference,
                "cpu_ratio_to_abs_partition": median(spent)[1] / reference[1],
                "ratio_to_partition": median(spent)[0] / partition[0],
            }
            for name, spent in later.items()
        }
    }


def median(spent: list[tuple[float, float]]) -> tuple[float, float]:
    walls, cpus = zip(*spent, strict=True)
    return statistics.median(walls), statistics.median(cpus)


def least(spent: list[tuple[float, float]]) -> float:
    return min(wall for wall, _ in spent)


def show(result: dict[str, Any]) -> None:
    print(f"\nsparsity {result['sparsity']}, {result['weights']:,} weights")
    print(f"  {'':14} median s   min s   CPU s   first s  ratio, of minima")
    for name, arm in result["arms"].items():
        print(
            f"  {name:14} {arm['median_seconds']:8.4f} {arm['min_seconds']:7.4f}"
            f" {arm['median_cpu_seconds']:7.4f} {arm['first_call_seconds']:9.4f}"
            f"  {arm['ratio_to_abs_partition']:.3f}"
            f"  {arm['min_ratio_to_abs_partition']:.3f}"
        )


def main(_: list[str]) -> None:
    results = []
    for sparsity in FLAGS.sparsity:
        results.append(measure(sparsity))
        show(results[-1])
    if FLAGS.out:
        settings = {"rounds": FLAGS.rounds, "slow_arms_every": FLAGS.slow}
        target = {"update_to_abs_partition": TARGET}
        record.write(
            FLAGS.out, {"settings": settings, "target": target, "results": results}
        )
        print(f"\n{FLAGS.out}")


if __name__ == "__main__":
    app.run(main)
