"""Models where they run: one exporter, the runtimes, int8, the metric of a file."""

from .errors import ExportError
from .evaluate import calibration_images, evaluate, evaluate_onnx
from .onnx import Exported, export_onnx, fingerprint, read_metadata
from .quantize import quantize
from .runtimes import RUNTIMES, prepared
