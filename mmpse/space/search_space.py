"""Which widths exist: width units, their candidates, and the space that they span."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np

from mmpse.errors import UserError

from .subnet import Subnet

DEFAULT_RATIOS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class WidthUnit:
    """All layers that must keep the same number of channels."""

    name: str
    max_width: int  # channels in the fullnet
    candidates: tuple[int, ...]  # widths to choose from, ascending; the last is `max_width`

    @classmethod
    def from_grid(
        cls, name: str, max_width: int, ratios: Sequence[float], divisor: int
    ) -> WidthUnit:
        """Candidates are ``ratio * max_width`` rounded to the nearest multiple of ``divisor``.

        Ratios that round to the same width are one candidate, so that none is drawn more often for
        being listed twice; ``max_width`` itself is always a candidate.

        Raises:
            ValueError: If a ratio is not in (0, 1] or the divisor is not positive.
        """
        if not ratios or not all(isinstance(r, (int, float)) and 0 < r <= 1 for r in ratios):
            raise UserError(f'ratios must be numbers in (0, 1], got {ratios!r}')
        if not isinstance(divisor, int) or divisor < 1:
            raise UserError(f'divisor must be a positive whole number, got {divisor!r}')
        rounded = {max(divisor, int(max_width * r / divisor + 0.5) * divisor) for r in ratios}
        candidates = sorted(width for width in rounded | {max_width} if width <= max_width)
        return cls(name, max_width, tuple(candidates))

    def nearest(self, ratio: float) -> int:
        """The candidate nearest to ``ratio`` of the full width; of two the narrower one."""
        return min(self.candidates, key=lambda width: abs(width - ratio * self.max_width))


class SearchSpace:
    """The ordered set of a model's width units.

    Many subnets are handled as one integer array ``(subnets, units)`` of channels; a single one as
    a :class:`Subnet`.

    The candidates of a unit lie on a grid: ``ratios`` of its full width, in multiples of
    ``divisor``. Units that need another one are named by patterns in ``grids``, e.g.
    ``{'layer4*': dict(ratios=[1.0]), 'stem': dict(divisor=16)}``, which keeps every unit of the
    last stage at full width and gives the stem multiples of 16.

    Args:
        widths: Unit name -> channels in the fullnet, in order.
        backbone: Type and layers of the model, as :meth:`mmpse.slim.Layout.to_dict` has them; they
            are written into subnet files.
        ratios: Widths to choose from, as shares of the full width.
        divisor: Candidates are multiples of it.
        grids: Pattern of unit names (:mod:`fnmatch`) -> ``ratios`` and/or ``divisor`` of those
            units. Of several patterns that match a unit, the last one holds.

    Raises:
        ValueError: If a ratio is not in (0, 1], a divisor is not positive, a pattern matches no
            unit or a grid has an unknown key.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        backbone: Mapping[str, Any],
        ratios: Sequence[float] = DEFAULT_RATIOS,
        divisor: int = 8,
        grids: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        default = dict(ratios=ratios, divisor=divisor)
        of_units = dict.fromkeys(widths, default)
        for pattern, grid in (grids or {}).items():
            if not isinstance(grid, Mapping) or not grid.keys() <= default.keys():
                raise UserError(
                    f'grids[{pattern!r}] must be a dict of ratios and/or divisor, got {grid!r}'
                )
            matched = [name for name in widths if fnmatchcase(name, pattern)]
            if not matched:
                raise UserError(
                    f'grids[{pattern!r}] matches no unit; the units are {", ".join(widths)}'
                )
            of_units.update(dict.fromkeys(matched, {**default, **grid}))
        self.units = tuple(
            WidthUnit.from_grid(name, width, **of_units[name]) for name, width in widths.items()
        )
        self.names = tuple(unit.name for unit in self.units)
        self.backbone = {**backbone, 'grid': _plain(default)}
        if grids:
            self.backbone['grid']['grids'] = {k: _plain(grid) for k, grid in grids.items()}

    def __len__(self) -> int:
        return len(self.units)

    @property
    def size(self) -> int:
        """Number of subnets."""
        return math.prod(len(unit.candidates) for unit in self.units)

    @property
    def fullnet(self) -> Subnet:
        return self.subnet([unit.max_width for unit in self.units])

    @property
    def tinynet(self) -> Subnet:
        return self.subnet([unit.candidates[0] for unit in self.units])

    @cached_property
    def table(self) -> np.ndarray:
        """Candidates, integer array ``(units, candidates)``; zeros where a unit has fewer."""
        table = np.zeros((len(self), max(len(u.candidates) for u in self.units)), dtype=np.int64)
        for row, unit in zip(table, self.units):
            row[: len(unit.candidates)] = unit.candidates
        return table

    def subnet(self, widths: Sequence[int], **kwargs) -> Subnet:
        """The subnet of one row of a width array."""
        return Subnet(dict(zip(self.names, map(int, widths), strict=True)), self.backbone, **kwargs)

    def array(self, subnets: Sequence[Mapping[str, int]]) -> np.ndarray:
        """Widths of subnets as an integer array ``(subnets, units)``."""
        return np.array([[s[name] for name in self.names] for s in subnets], dtype=np.int64)

    def uniform(self, ratio: float) -> Subnet:
        """Every unit at the candidate nearest to ``ratio`` of its full width."""
        return self.subnet([unit.nearest(ratio) for unit in self.units])

    def uniform_rows(self) -> np.ndarray:
        """The subnets that ratios in steps of 0.001 give, narrowest first ``(subnets, units)``."""
        ratios = np.arange(0.0, 1.0005, 0.001)
        return np.unique(self.array([self.uniform(ratio) for ratio in ratios]), axis=0)


def _plain(grid: Mapping[str, Any]) -> dict[str, Any]:
    """A grid as its JSON has it."""
    return {k: [float(r) for r in v] if k == 'ratios' else v for k, v in grid.items()}
