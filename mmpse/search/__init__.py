"""What to judge next, and what was judged: predicted losses, widths for a budget, the archive."""

from .allocate import allocate
from .around import BudgetSampler, around
from .gains import Gain, paired_gain
from .predictor import Notch, Predictor, notch_table
from .record import best_few, predictor_of, refitted
from .sensitivity import candidate_losses
