"""What to judge next: losses predicted from widths, widths chosen for a budget. NumPy only."""

from .allocate import allocate
from .predictor import Notch, Predictor, notch_table
from .sensitivity import Curves

__all__ = ['Curves', 'Notch', 'Predictor', 'allocate', 'notch_table']
