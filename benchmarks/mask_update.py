"""The time of one global mask update of ResNet-50: 25.5 million weights, 54 kernels.

    python -m benchmarks.mask_update --out=benchmarks/results/mask_update.json

The model is `keras.applications.ResNet50`, untrained and wrapped, its dense layer
included. Its weights change before every round. A round runs all arms in turn, in one
process:

    update          `MaskUpdater.recompute`: masks found and assigned, flips and the
                    sparsity counted; `select`, `flips` and `assign` are its parts,
                    measured apart
    assign_copied   the masks assigned as arrays, which TensorFlow copies
    abs_partition   `np.abs`, then `np.partition`, over all weights in one array: what
                    the plain NumPy way costs before it has written a mask
    partition       its second half by itself
    control         `np.partition` once more: its distance from `partition` is the noise
                    of a ratio
    sort            a full `tf.sort` per kernel, as TFMOT finds a layer's threshold; it
                    ranks within layers only (in some rounds, being slow)
    xla             `keep_largest_xla` compiled for the CPU (in some rounds)

Ratios are medians over rounds, relative to the median of `abs_partition`, and to that
of `partition`. The first round is left out and told apart. The count is checked in
every round, and in every slow one the masks of both forms are compared bit for bit.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import dpf_tf
from benchmarks import record
from dpf_tf.allocation import keep_count
from dpf_tf.keras_api import numpy_view, shared_tensor
from dpf_tf.threshold import count_flips, keep_largest
from dpf_tf.threshold_xla import keep_largest_xla

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "JSON file for the results; without it, only printed.")
flags.DEFINE_integer("rounds", 21, "Rounds of all arms in turn.", lower_bound=1)
flags.DEFINE_integer("slow", 10, "Slow arms run only in every N-th round.", 1)
flags.DEFINE_multi_float("sparsity", [0.5, 0.9], "Sparsities to measure.")

# Of the update, relative to `abs_partition`.
TARGET = 0.5


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


def assign_shared(variables: list[tf.Variable], masks: list[np.ndarray]) -> None:
    for variable, mask in zip(variables, masks, strict=True):
        variable.assign(shared_tensor(mask))


def assign_copied(variables: list[tf.Variable], masks: list[np.ndarray]) -> None:
    for variable, mask in zip(variables, masks, strict=True):
        variable.assign(mask)


def fetched(function: Callable[..., Any], *arguments: Any) -> list[np.ndarray]:
    """Calls a function of tensors and waits for its masks."""
    return [mask.numpy() for mask in function(*arguments)]


def measure(sparsity: float) -> dict[str, Any]:
    """Runs all rounds at one sparsity."""
    keras.utils.set_random_seed(0)
    model = dpf_tf.prune_low_magnitude_dpf(
        keras.applications.ResNet50(weights=None),
        dpf_tf.ConstantSparsity(sparsity, frequency=1),
        layers="kernel",
    )
    updater = dpf_tf.MaskUpdater(model)
    weights = [w for layer in updater.layers for w in layer.kernels.values()]
    shapes = [tuple(weight.shape) for weight in weights]
    total = sum(map(math.prod, shapes))
    keep = keep_count(total, sparsity, len(shapes))
    spare = [tf.Variable(tf.ones(shape, tf.bool)) for shape in shapes]
    watch, flips = Stopwatch(), []
    for turn in range(FLAGS.rounds):
        for weight in weights:
            spread = 0.01 * float(tf.math.reduce_std(weight))
            weight.assign_add(keras.random.normal(weight.shape, stddev=spread))
        before = list(dpf_tf.get_masks(model).values())

        flips.append(watch("update", updater.recompute, turn).flips)

        tensors = [tf.convert_to_tensor(weight) for weight in weights]
        views = [numpy_view(tensor) for tensor in tensors]
        new = watch("select", keep_largest, views, keep)
        assert watch("flips", count_flips, before, new) == flips[-1]
        watch("assign", assign_shared, spare, new)
        watch("assign_copied", assign_copied, spare, new)
        assert sum(np.count_nonzero(mask) for mask in new) == keep
        after = dpf_tf.get_masks(model).values()
        assert all(map(np.array_equal, after, new))

        flat = np.concatenate([view.reshape(-1) for view in views])
        magnitudes = watch("abs", np.abs, flat)
        for name in ("partition", "control")[:: 1 if turn % 2 else -1]:
            watch(name, np.partition, magnitudes, total - keep)
        watch.add("abs_partition", ("abs", "partition"))
        del flat, magnitudes

        if turn % FLAGS.slow == 0:
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
