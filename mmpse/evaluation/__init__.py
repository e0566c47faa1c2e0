"""Judging subnets: recalibration."""

from .recalibration import recalibrate

__all__ = ['recalibrate']
