"""Figures and reports."""

from .figures import detections, search_progress, training_losses, width_profile
from .html import picture, table, write_page
from .text import text_table

__all__ = [
    'detections',
    'picture',
    'search_progress',
    'table',
    'text_table',
    'training_losses',
    'width_profile',
    'write_page',
]
