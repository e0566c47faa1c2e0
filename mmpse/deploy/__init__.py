"""Models where they run: one exporter, the runtimes, int8."""

from .network import ExportError
from .onnx import Exported, export_onnx, fingerprint, read_metadata

__all__ = ['ExportError', 'Exported', 'export_onnx', 'fingerprint', 'read_metadata']
