"""Widths by search: subnets near good widths are judged, and a predictor says what is better.

Sensitivity cuts one unit at a time. Here all units move at once, around widths that meet the budget
already, so that what is cut together is judged together. Nothing is trained: each subnet is cut and
reconstructed, as the one that is chosen will be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmpse.openmmlab.models.losses import Track
from mmpse.search import Predictor, around, best_few, notch_table
from mmpse.slim import Reconstruction
from mmpse.space import Budget

from .choosing import judge
from .subject import Subject

EXPLORED = 24, 64  # subnets that are judged: one for each unit, but no fewer and no more
BEST = 3  # of those that the predictor takes for better


def explore(
    subject: Subject,
    reconstruction: Reconstruction,
    budget: Budget,
    start: Sequence[int],
    batches: Sequence[Mapping[str, Any]],
    seed: int,
    track: Track = iter,
) -> list[dict[str, Any]]:
    """Judge subnets near the ones that start, themselves the first: their ``widths`` and ``loss``.

    Args:
        start: Widths that meet the budget ``(units,)``.
        batches: Training batches as :func:`mmpse.openmmlab.models.losses.preprocessed` gives them.
        seed: What they are drawn by.
    """
    count = int(np.clip(len(subject.space), *EXPLORED))
    near = around(subject.space, budget, start, count, np.random.default_rng(seed))
    rows = [('', row) for row in (start, *near)]
    judged = judge(subject, reconstruction, rows, batches, track)
    return [dict(widths=list(row.widths), loss=row.loss) for row in judged]


def by_search(
    subject: Subject, budget: Budget, start: Sequence[int], explored: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, str]:
    """The widths that a predictor takes for better than the start.

    Args:
        explored: What :func:`explore` gave.

    Returns:
        The best few ``(subnets, units)``, none where nothing seems better; and what a notch of each
        unit costs, as a table.
    """
    widths = np.array([row['widths'] for row in explored])
    losses = [row['loss'] for row in explored]
    predictor = Predictor(subject.space, budget.cost, np.asarray(start), widths, losses)
    return best_few(predictor, budget, BEST), notch_table(predictor.notches())
