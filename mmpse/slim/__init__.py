"""Widths of any PyTorch model: found by watching, sorted, cut, and trained many in one pass.

Of functions here ``model`` is the full-width model, ``layout`` its layout, and ``widths`` maps each
of its units to channels, as a :class:`mmpse.space.Subnet` does, unless they say otherwise.
"""

from .cutting import CutError, as_subnet, cut_
from .folding import FoldablePair, foldable, folded
from .guard import GuardError, check, check_cut
from .layout import Layout, Unit
from .reconstruction import Reconstruction
from .samples import sample_inputs
from .sorting import IMPORTANCES, sort_
from .supernet import EXECUTIONS, Supernet
from .units import find_units
