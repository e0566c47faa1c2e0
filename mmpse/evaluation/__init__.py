"""Judging subnets: recalibration, and how far scores can be trusted."""

from .ranking import ranking_agreement
from .recalibration import recalibrate

__all__ = ['ranking_agreement', 'recalibrate']
