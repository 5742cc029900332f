"""The feedback: a layer computes with the pruned kernel, the dense kernel learns.

In the forward pass the kernel is a pruned value, such as `mask * kernel`. In the
backward pass the gradient that arrives there is handed to the dense kernel: unchanged,
in dynamic pruning with feedback, so that a pruned weight keeps moving and can come back
at a later mask update. Most schemes that DPF is compared with hand on less of it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

Backward = Callable[[tf.Tensor], tf.Tensor]

# Of each thread: MirroredStrategy traces every replica in a thread of its own.
_here = threading.local()


def substitute(kernel: tf.Tensor, value: tf.Tensor, backward: Backward) -> tf.Tensor:
    """Returns `value`, and hands what `backward` makes of its gradient to `kernel`.

    Args:
        kernel: dense kernel, a floating-point tensor of any shape (not a variable).
        value: what to compute with, a tensor of the kernel's shape and dtype.
        backward: from the gradient at `value` to the gradient of the kernel.

    Returns:
        A tensor equal to `value`, whose gradient reaches `kernel` alone.

    Raises:
        ValueError: when the gradient is taken, if `backward` does not return a tensor
            of the kernel's shape.

    Example:

        >>> import tensorflow as tf
        >>> from dpf_tf.feedback import substitute
        >>> w = tf.constant([2.0, -1.0])
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(w)
        ...     loss = tf.reduce_sum(substitute(w, tf.sign(w), lambda g: 3.0 * g))
        >>> float(loss), tape.gradient(loss, w).numpy().tolist()
        (0.0, [3.0, 3.0])

    References:
        Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020, equation (4): the
        gradient is evaluated at the pruned weights and applied to the dense ones.
    """
    value = tf.stop_gradient(value)

    @tf.custom_gradient
    def replaced(kernel: tf.Tensor) -> Any:
        def hand_on(upstream: tf.Tensor) -> tf.Tensor:
            # An embedding's gradient arrives as IndexedSlices.
            gradient = backward(tf.convert_to_tensor(upstream))
            shape = getattr(gradient, "shape", None)
            if shape is None or not kernel.shape.is_compatible_with(shape):
                raise ValueError(
                    "`backward` must return the gradient of the dense kernel, of shape "
                    f"{kernel.shape}. Returned: {gradient!r}"
                )
            return gradient

        return tf.identity(value), hand_on

    return replaced(kernel)


@contextlib.contextmanager
def probing(kernels: Sequence[Any], probes: Sequence[tf.Tensor]) -> Iterator[None]:
    """Hands the gradients of pruned kernels, as they are, to probes instead.

    What else depends on a dense kernel, such as its regularizer, does not reach them.

    Args:
        kernels: dense variables.
        probes: a tensor of the shape and dtype of each, whatever its values.
    """
    _here.probes = dict(zip(map(id, kernels), probes, strict=True))
    try:
        yield
    finally:
        _here.probes = {}


def probe_of(kernel: Any) -> tf.Tensor | None:
    """Returns what is handed the gradient of a kernel's pruned value, or `None`."""
    return getattr(_here, "probes", {}).get(id(kernel))


def masked(kernel: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Returns a tensor with exact `+0.0` where the mask is `False`.

    Example:

        >>> import tensorflow as tf
        >>> from dpf_tf.feedback import masked
        >>> pruned = masked(tf.constant([2.0, -1.0]), tf.constant([True, False]))
        >>> pruned.numpy().tolist()
        [2.0, 0.0]
    """
    # `kernel * mask` would turn pruned negative weights into -0.0.
    return tf.where(mask, kernel, tf.zeros([], kernel.dtype))


def bounded(gradient: tf.Tensor, mask: tf.Tensor, filters: Sequence[int]) -> tf.Tensor:
    """Returns a gradient that is no longer for dead filters than for living ones.

    Before a batch norm the channel of a filter without a single weight has no variance,
    so that what comes back to it is `1 / sqrt(epsilon)` times the usual: 30 to 300
    times. Unbounded, the dense weights of dead filters soon dwarf all others.

    Args:
        gradient: at the pruned kernel, a float32 tensor of any shape.
        mask: boolean, of the same shape; a filter is dead where it is `False`
            throughout.
        filters: the axes that tell the filters apart.

    Returns:
        The gradient, that of all dead filters multiplied by one factor, so that none of
        theirs is longer (in its L2 norm) than the longest of a living filter. If there
        is none longer, or no living one gets any, the gradient as it is.

    Example:

        >>> import tensorflow as tf
        >>> from dpf_tf.feedback import bounded
        >>> gradient = tf.constant([[3.0, 30.0], [4.0, 40.0]])
        >>> mask = tf.constant([[True, False], [False, False]])
        >>> bounded(gradient, mask, [1]).numpy().tolist()
        [[3.0, 3.0], [4.0, 4.0]]
    """
    within = [axis for axis in range(len(mask.shape)) if axis not in filters]
    living = tf.reduce_any(mask, within, keepdims=True)
    squares = tf.reduce_sum(tf.square(gradient), within, keepdims=True)
    longest = tf.reduce_max(squares)
    bound = tf.reduce_max(masked(squares, living))
    factor = tf.sqrt(tf.math.divide_no_nan(bound, longest))
    return gradient * tf.where(living | (bound == 0.0), 1.0, factor)
