"""The feedback: a layer computes with the pruned kernel, the dense kernel learns.

In the forward pass the kernel is `mask * kernel`. In the backward pass the gradient
that arrives at the pruned kernel is handed to the dense one unchanged, so a pruned
weight keeps moving and can come back at a later mask update.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


@tf.custom_gradient
def feedback(kernel: tf.Tensor, mask: tf.Tensor) -> Any:
    """Returns the pruned kernel and passes its gradient to the dense one unmasked.

    Forward, `where(mask, kernel, 0)`; backward, the identity. With `g` the gradient of
    the loss at the pruned kernel, the optimizer steps the dense kernel by `g` itself.
    That is the error feedback: the step starts from `kernel`, not from the pruned one.

    Args:
        kernel: dense kernel, a floating-point tensor of any shape (not a variable).
        mask: boolean tensor of the kernel's shape; `False` marks a pruned weight.

    Returns:
        The pruned kernel: same shape and dtype, exact `+0.0` where the mask is `False`.

    Example:

        >>> import tensorflow as tf
        >>> from dpf_tf.feedback import feedback
        >>> w = tf.constant([2.0, -1.0])
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(w)
        ...     loss = tf.reduce_sum(3.0 * feedback(w, tf.constant([True, False])))
        >>> float(loss), tape.gradient(loss, w).numpy().tolist()
        (6.0, [3.0, 3.0])

    References:
        Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020, equation (4).
    """
    # `kernel * mask` would turn pruned negative weights into -0.0.
    pruned = tf.where(mask, kernel, tf.zeros([], kernel.dtype))

    def hand_to_dense(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        # An embedding's gradient arrives as IndexedSlices.
        return tf.convert_to_tensor(upstream), None

    return pruned, hand_to_dense
