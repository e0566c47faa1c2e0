"""Models where they run: one exporter, the runtimes, int8, the metric of a file."""

from .evaluate import calibration_images, evaluate, evaluate_onnx
from .graph import ExportError
from .onnx import Exported, export_onnx, fingerprint, read_metadata
from .quantize import quantize
from .runtimes import RUNTIMES, prepared
