"""Figures and reports."""

from .figures import (
    judged_candidates,
    search_progress,
    sensitivity_curves,
    training_losses,
    width_profile,
)
from .html import bars, embedded, paragraph, picture, table, write_page
from .text import text_table
