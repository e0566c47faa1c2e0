"""Models where they run: ``mmpse.deploy.export_onnx``, the runtimes, int8, the metric of a file."""

from mmpse.openmmlab.configs.evaluation import evaluate
from mmpse.openmmlab.deploy.evaluate import calibration_images, evaluate_onnx
from mmpse.openmmlab.deploy.graph import ExportError
from mmpse.openmmlab.deploy.onnx import Exported, export_onnx, fingerprint, read_metadata
from mmpse.openmmlab.deploy.quantize import quantize
from mmpse.openmmlab.deploy.runtimes import RUNTIMES, loaded, prepared
