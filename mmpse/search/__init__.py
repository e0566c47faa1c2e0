"""What to judge next: losses predicted from widths, widths chosen for a budget. NumPy only."""

from .allocate import allocate
from .predictor import Notch, Predictor, notch_table

__all__ = ['Notch', 'Predictor', 'allocate', 'notch_table']
