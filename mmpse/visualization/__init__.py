"""Figures and reports."""

from .figures import (
    detections,
    judged_candidates,
    search_progress,
    sensitivity_curves,
    training_losses,
    width_profile,
)
from .html import bars, embedded, paragraph, picture, table, write_page
from .text import text_table

__all__ = [
    'bars',
    'detections',
    'embedded',
    'judged_candidates',
    'paragraph',
    'picture',
    'search_progress',
    'sensitivity_curves',
    'table',
    'text_table',
    'training_losses',
    'width_profile',
    'write_page',
]
