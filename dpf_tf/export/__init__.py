"""From a pruned model to a phone: TFLite files that were run before they are there.

report = dpf_tf.export_tflite(sparse_model, "model.tflite")
print(report)
"""

from dpf_tf.export.errors import ExportError
from dpf_tf.export.report import ExportReport
from dpf_tf.export.tflite import export_tflite

__all__ = ["ExportError", "ExportReport", "export_tflite"]
