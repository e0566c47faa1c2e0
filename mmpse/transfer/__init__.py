"""A searched backbone inside a detector or segmentor; export."""

from .config import TransferError, complexity, new_backbone, transfer
from .export import ExportError, backbone_of, export_onnx, export_plain, load_model
from .plain import PlainBackbone
from .survey import survey

__all__ = [
    'ExportError',
    'PlainBackbone',
    'TransferError',
    'backbone_of',
    'complexity',
    'export_onnx',
    'export_plain',
    'load_model',
    'new_backbone',
    'survey',
    'transfer',
]
