"""From a pruned model to a phone: TFLite files that were run before they are there.

report = dpf_tf.export_tflite(sparse_model, "model.tflite")
print(report)
"""

from dpf_tf.export.errors import ExportError
from dpf_tf.export.quantization import quantization_aware
from dpf_tf.export.tflite import export_tflite
from dpf_tf.export.xnnpack import check_xnnpack_sparse

__all__ = ["ExportError", "check_xnnpack_sparse", "export_tflite", "quantization_aware"]
