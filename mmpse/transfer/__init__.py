"""A searched backbone inside a detector or segmentor; export."""

from mmpse.deploy import ExportError

from .config import TransferError, complexity, new_backbone, transfer
from .export import backbone_of, export_plain, load_model
from .plain import PlainBackbone
from .survey import survey

__all__ = [
    'ExportError',
    'PlainBackbone',
    'TransferError',
    'backbone_of',
    'complexity',
    'export_plain',
    'load_model',
    'new_backbone',
    'survey',
    'transfer',
]
