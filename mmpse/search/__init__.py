"""What to judge next: losses predicted from widths, widths chosen for a budget. NumPy only."""

from .allocate import allocate
from .sensitivity import Curves

__all__ = ['Curves', 'allocate']
