"""From losses with single units cut to what every candidate of every unit would lose."""

from collections.abc import Mapping

import numpy as np
from scipy.optimize import isotonic_regression

from mmpse.errors import UserError
from mmpse.space import SearchSpace, WidthUnit


def candidate_losses(space: SearchSpace, losses: Mapping[str, Mapping[int, float]]) -> np.ndarray:
    """What a network loses by a unit's width, from a few measured widths of each unit.

    A unit at its full width loses nothing, and a narrower one never less than a wider one: the
    measured losses are replaced by the nearest ones of which that is true (isotonic regression),
    so that a cut that happened to gain loses nothing. Between two measured widths a loss is
    interpolated linearly in log2 of the width. Below the narrowest measured width it goes on as
    steeply as the unit's steepest measured piece, or as the median over the units if that is
    steeper: no unit is taken for free where nothing was measured.

    Args:
        losses: Unit name -> measured width -> loss, minus that of the fullnet on the same images.
            The widths need not be candidates. Units with a single candidate need none.

    Returns:
        Array ``(units, candidates)``, zero where a unit has fewer, as :func:`allocate` takes it.

    Raises:
        ValueError: If a loss is not finite.
    """
    points = [_points(unit, losses.get(unit.name, {})) for unit in space.units]
    steepest = [np.max(-np.diff(y) / np.diff(x), initial=0.0) for x, y in points]
    several = [slope for slope, unit in zip(steepest, space.units) if len(unit.candidates) > 1]
    usual = np.median(several or [0.0])
    table = np.zeros(space.table.shape)
    for row, unit, (octaves, measured), slope in zip(table, space.units, points, steepest):
        at = np.log2(np.array(unit.candidates) / unit.max_width)
        beyond = np.maximum(octaves[0] - at, 0)
        row[: len(at)] = np.interp(at, octaves, measured) + max(slope, usual) * beyond
    return table


def _points(unit: WidthUnit, losses: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """``log2(width / full width)``, ascending up to 0, and monotone losses down to 0."""
    widths = np.array(sorted(losses), dtype=float)
    measured = np.array([losses[width] for width in sorted(losses)], dtype=float)
    if not np.isfinite(measured).all():
        raise UserError(
            f'expected finite losses at the measured widths of {unit.name}, got {dict(losses)}'
        )
    falling = isotonic_regression(measured, increasing=False).x if losses else measured
    monotone = np.maximum(falling, 0.0)
    return np.append(np.log2(widths / unit.max_width), 0.0), np.append(monotone, 0.0)
