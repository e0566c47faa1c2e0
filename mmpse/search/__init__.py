"""What to judge next: losses predicted from widths, widths chosen for a budget. NumPy only."""

from .allocate import allocate
from .around import BudgetSampler
from .predictor import Notch, Predictor, notch_table
from .record import best_widths, levelled, predictor_of
from .sensitivity import Curves

__all__ = [
    'BudgetSampler',
    'Curves',
    'Notch',
    'Predictor',
    'allocate',
    'best_widths',
    'levelled',
    'notch_table',
    'predictor_of',
]
