"""Racing: a candidate that is clearly worse on a part of the split is not judged on the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .archive import Judged

FEWEST = 5  # subnets judged on the part and in full, before any is dropped
ERRORS = 2  # standard errors below what is expected at which a candidate is clearly worse


class Race:
    """Which candidates are dropped (this project).

    The subnets that were judged in full say how the score on the part follows from the score on
    the whole split; see :func:`least_part`. The relation and the score to come up to are those of
    earlier generations, so that every process, and a search that is resumed, drops the same ones.

    Args:
        share: Share of the split's images that is judged first.
        drop: ``False`` judges everything in full and notes what would be dropped.

    Raises:
        ValueError: If the share is not between 0 and 1.
    """

    def __init__(self, share: float, drop: bool = True) -> None:
        if not isinstance(share, float) or not 0 < share < 1:
            raise ValueError(
                f'racing.share is the share of the images that is judged first, between 0 and 1 '
                f'(0.25, say); got {share!r}'
            )
        if not isinstance(drop, bool):
            raise ValueError(f'racing.drop must be True or False, got {drop!r}')
        self.share = share
        self.drop = drop
        self.judged: list[Judged] = []  # on the part too
        self.dropped: set[tuple[int, ...]] = set()  # or would be

    def least(self, bar: float) -> float:
        """The part score below which a candidate is clearly worse than the score ``bar``."""
        return least_part(*self._pairs(), bar)

    def note(self, rows: Sequence[Judged], least: float) -> None:
        """Take a generation whose candidates were to have ``least`` on the part."""
        rows = [row for row in rows if row.part is not None]
        self.judged += rows
        self.dropped |= {row.widths for row in rows if clearly_worse(row.part, least)}

    def report(self, images: tuple[int, int], best: Sequence[Judged]) -> str:
        """What racing brought, or would have.

        Args:
            images: Images of the part, and of the split.
            best: The best subnets that were found, in order.
        """
        part, whole = images
        count, number = len(self.judged), len(self.dropped)
        did, saved = ('dropped', 'saved') if self.drop else ('would have dropped', 'have saved')
        share = number * (1 - part / whole) / max(count, 1)
        text = (
            f'racing on {part} of {whole} images {did} {number} of {count} subnets and {saved} '
            f'{share:.1%} of the images; scores on the part are '
            f'{residual(*self._pairs()):.4g} (standard deviation) off the line.'
        )
        if self.drop:
            return text
        lost = [k for k, row in enumerate(best, 1) if row.widths in self.dropped]
        ranks = f'ranks {", ".join(map(str, lost))}' if lost else 'none'
        winner = 'would have been lost' if 1 in lost else 'would have stayed'
        return f'{text} Of the best {len(best)} it would have dropped {ranks}; the winner {winner}.'

    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores on the whole split and on the part, of the subnets that were not dropped."""
        pairs = [
            (row.score, row.part)
            for row in self.judged
            if row.widths not in self.dropped and np.isfinite([row.score, row.part]).all()
        ]
        return tuple(np.array(pairs).reshape(-1, 2).T)


def clearly_worse(part: float, least: float) -> bool:
    """Whether a part score is below the least; one that is not a number decides nothing."""
    return -math.inf < part < least


def least_part(whole: np.ndarray, part: np.ndarray, bar: float) -> float:
    """The lowest part score that is to be expected of a subnet of a given whole score.

    Part scores are fitted as a line of the whole scores. Two standard errors of a prediction below
    the line at ``bar``, a subnet is clearly worse: of those that are as good as ``bar``, about 2 %
    are below by chance, however few of the candidates are as good. A line, not a constant offset,
    since the score of a part need not be on the scale of the whole: COCO's mAP counts the images
    that are not judged as missed.

    Args:
        whole, part: Scores on the whole split and on its part, ``(subnets,)``.
        bar: The whole score to come up to.

    Returns:
        The part score; ``-inf`` if the subnets are too few, or their scores do not go together.
    """
    if len(whole) < FEWEST or not math.isfinite(bar) or not np.ptp(whole):
        return -math.inf
    slope, _ = line = np.polyfit(whole, part, 1)
    if slope <= 0:
        return -math.inf
    distance = (bar - whole.mean()) ** 2 / ((whole - whole.mean()) ** 2).sum()
    error = residual(whole, part) * math.sqrt(1 + 1 / len(whole) + distance)
    return float(np.polyval(line, bar) - ERRORS * error)


def residual(whole: np.ndarray, part: np.ndarray) -> float:
    """Standard deviation of the part scores around their line; NaN if there is none."""
    if len(whole) < FEWEST or not np.ptp(whole):
        return math.nan
    off = part - np.polyval(np.polyfit(whole, part, 1), whole)
    return float(np.sqrt((off**2).sum() / (len(whole) - 2)))
