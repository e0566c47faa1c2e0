"""A searched backbone inside a detector or segmentor."""

from .config import TransferError, transfer
from .survey import survey

__all__ = ['TransferError', 'survey', 'transfer']
