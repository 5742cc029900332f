"""Dynamic Model Pruning with Feedback (DPF) for Keras 3 and tf_keras.

One training run yields a sparse model, and weights pruned too early can come back:

    pruned = dpf_tf.prune_low_magnitude_dpf(model, 0.9)
    pruned.compile(...)
    pruned.fit(data, callbacks=[dpf_tf.PruningCallback()])
    sparse = dpf_tf.strip_pruning(pruned)

Lin, Stich, Barba, Dmitriev, Jaggi: "Dynamic Model Pruning with Feedback", ICLR 2020.
"""

from dpf_tf import methods
from dpf_tf.batch_norm import recalibrate_batch_norm
from dpf_tf.callbacks import PruningCallback
from dpf_tf.export import (
    ExportError,
    check_xnnpack_sparse,
    export_tflite,
    quantization_aware,
)
from dpf_tf.macs import count_macs
from dpf_tf.magnitude import magnitude_prune
from dpf_tf.masks import freeze_masks, get_masks, set_masks
from dpf_tf.model import prune, prune_low_magnitude_dpf
from dpf_tf.prunable import PrunableLayer, pointwise
from dpf_tf.report import sparsity_report
from dpf_tf.schedules import ConstantSparsity, OneShot, PolynomialDecay
from dpf_tf.shrink import shrink
from dpf_tf.strip import strip_pruning
from dpf_tf.structures import Block, Filters, NofM
from dpf_tf.updater import MaskUpdater
from dpf_tf.version import __version__
from dpf_tf.wrapper import PruneLowMagnitudeDPF

__all__ = [
    "Block",
    "ConstantSparsity",
    "ExportError",
    "Filters",
    "MaskUpdater",
    "NofM",
    "OneShot",
    "PolynomialDecay",
    "PrunableLayer",
    "PruneLowMagnitudeDPF",
    "PruningCallback",
    "__version__",
    "check_xnnpack_sparse",
    "count_macs",
    "export_tflite",
    "freeze_masks",
    "get_masks",
    "magnitude_prune",
    "methods",
    "pointwise",
    "prune",
    "prune_low_magnitude_dpf",
    "quantization_aware",
    "recalibrate_batch_norm",
    "set_masks",
    "shrink",
    "sparsity_report",
    "strip_pruning",
]
