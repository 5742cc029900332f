"""`ExportError`: no file was written, and why."""

from __future__ import annotations


class ExportError(RuntimeError):
    """A model could not be exported, or the file that came out cannot be trusted.

    The message says what failed and how to go on; no file is left.

    Example:

        >>> import dpf_tf
        >>> issubclass(dpf_tf.ExportError, RuntimeError)
        True
    """
