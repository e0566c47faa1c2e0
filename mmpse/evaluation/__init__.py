"""Judging subnets: recalibration, and how far scores can be trusted."""

from .batches import HeldBatches
from .ranking import ranking_agreement
from .recalibration import recalibrate

__all__ = ['HeldBatches', 'ranking_agreement', 'recalibrate']
