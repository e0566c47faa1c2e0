"""What training and judging say of subnets, as a predictor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmpse.openmmlab.supernet.record import recorded_losses
from mmpse.search import Predictor, predictor_of, refitted

from .archive import Judged
from .base import SearchLoop


def predictor_in(search: SearchLoop) -> Predictor:
    """A predictor by the losses that training recorded, and by what was judged.

    Not by all that is in the archive: after a kill that is more than at the first time.
    """
    judged = {row.widths: row for row in (*search.known, *search.history.values())}
    rows = [row for row in judged.values() if np.isfinite(row.score)]
    widths, values = np.array([row.widths for row in rows]), losses_of(rows)
    reference = np.array(search.uniform)
    record = recorded_losses(search.checkpoint)
    if record is None:
        return Predictor(search.space, search.budget.cost, reference, widths, values)
    return refitted(predictor_of(search.space, search.budget, reference, *record), widths, values)


def losses_of(rows: Sequence[Judged]) -> np.ndarray:
    """What judged subnets lost, ``(subnets,)``: logarithms of losses, else minus the scores."""
    losses = [row.loss for row in rows]
    if None in losses:
        return np.array([-row.score for row in rows])
    return np.log(np.maximum(losses, np.finfo(float).tiny))
