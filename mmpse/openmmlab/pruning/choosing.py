"""Choosing widths for a trained model: by the sensitivity of its units, by a search near those.

Nothing is trained for the choice. Every subnet that is judged is cut and reconstructed, as the one
that is chosen will be.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch

from mmpse.openmmlab.models.losses import batch_losses
from mmpse.openmmlab.progress import Track
from mmpse.search import Predictor, around, best_few, notch_table
from mmpse.search.allocate import allocate
from mmpse.search.gains import Gain, paired_gain
from mmpse.search.sensitivity import candidate_losses
from mmpse.slim import Reconstruction, as_subnet, cut_
from mmpse.slim.cutting import layers_in
from mmpse.slim.reuse import noted_outputs, reused_outputs
from mmpse.space import Budget, SearchSpace, uniform_within

from .steps import PruneError
from .subject import Subject

# of a unit's full width, at which its sensitivity is measured; a third one changed no choice
RATIOS = (0.25, 0.5)
EXPLORED = 24, 64  # subnets that a search judges: one for each unit, but no fewer and no more
BEST = 3  # widths by sensitivity, or by a predictor, that are compared

Batches = Sequence[Mapping[str, Any]]  # as mmpse.openmmlab.models.losses.preprocessed gives them


# Sensitivity


def measure_sensitivity(
    reconstruction: Reconstruction, space: SearchSpace, batches: Batches, track: Track = iter
) -> dict[str, dict[int, float]]:
    """Cut one unit at a time, and see what the model loses.

    The channels that stay are the first ones, and what others brought is predicted from them. What
    a cut does not reach, as the backbone where a head is cut, runs once for each batch.

    Args:
        reconstruction: Of the full-width model, whose channels are sorted.
        space: The search space of the layout.

    Returns:
        Unit -> width -> mean loss of the batches minus that of the full model. Where a loss is not
        finite (a mean over no pixels) the batch tells nothing of that width.

    Raises:
        PruneError: If no loss is finite.
    """
    points = [
        (unit.name, width)
        for unit in space.units
        for width in sorted({unit.nearest(ratio) for ratio in RATIOS})
        if width < unit.max_width
    ]
    model, layout, full = reconstruction.model, reconstruction.layout, dict(space.fullnet)
    touched = {
        unit.name: [m for _, m, sides in layers_in(model, layout) if unit.name in sides.units]
        for unit in space.units
    }
    found: dict[str, dict[int, list[float]]] = {unit.name: {} for unit in space.units}
    noted_for = None
    for batch, unit, width in track([(b, *point) for b in batches for point in points]):
        if batch is not noted_for:
            with noted_outputs(model) as notes:
                whole = batch_losses(model, [batch])
            noted_for = batch
        with (
            reconstruction.absorbed({**full, unit: width}),
            as_subnet(model, layout, {**full, unit: width}),
            reused_outputs(model, notes, touched[unit]),
        ):
            loss = float(batch_losses(model, [batch]) - whole)
        if math.isfinite(loss):
            found[unit].setdefault(width, []).append(loss)
    if points and not any(found.values()):
        raise PruneError(
            f'no loss of {type(model).__name__} on training images is finite; make sure that the '
            'checkpoint is one of a trained model, or take --how uniform'
        )
    return {
        unit: {width: mean(losses) for width, losses in row.items()} for unit, row in found.items()
    }


def by_sensitivity(
    subject: Subject, budget: Budget, sensitivity: Mapping[str, Mapping[int, float]]
) -> np.ndarray:
    """The best few widths ``(subnets, units)`` by what units lose, each taken by itself."""
    table = candidate_losses(subject.space, sensitivity)
    starts = uniform_within(subject.space, budget)[None]
    return allocate(subject.space, budget, table, starts=starts, count=BEST)


# Search: all units move at once, so that what is cut together is judged together


def explore(
    subject: Subject,
    reconstruction: Reconstruction,
    budget: Budget,
    start: Sequence[int],
    batches: Batches,
    seed: int,
    track: Track = iter,
) -> list[dict[str, Any]]:
    """Judge subnets near the ones that start, themselves the first: their ``widths`` and ``loss``.

    Args:
        start: Widths that meet the budget ``(units,)``.
    """
    count = int(np.clip(len(subject.space), *EXPLORED))
    near = around(subject.space, budget, start, count, np.random.default_rng(seed))
    rows = [('', row) for row in (start, *near)]
    judged = judge(subject, reconstruction, rows, batches, track)
    return [dict(widths=list(row.widths), loss=row.loss) for row in judged]


def by_search(
    subject: Subject, budget: Budget, start: Sequence[int], explored: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, str]:
    """The widths that a predictor, fitted to what :func:`explore` gave, takes for better.

    Returns:
        The best few ``(subnets, units)``, none where nothing seems better; and what a notch of each
        unit costs, as a table.
    """
    widths = np.array([row['widths'] for row in explored])
    losses = [row['loss'] for row in explored]
    predictor = Predictor(subject.space, budget.cost, np.asarray(start), widths, losses)
    return best_few(predictor, budget, BEST), notch_table(predictor.notches())


# Comparing candidates


class Judgement(NamedTuple):
    """How a candidate did on images that its choice did not see."""

    name: str  # how it was chosen
    widths: tuple[int, ...]
    loss: float  # mean over the batches
    gain: float  # how much less it loses than the first one, mean over the batches
    error: float  # standard error of that


@torch.no_grad()
def judge(
    subject: Subject,
    reconstruction: Reconstruction,
    candidates: Sequence[tuple[str, Sequence[int]]],
    batches: Batches,
    track: Track = iter,
) -> list[Judgement]:
    """Compare candidates by their losses on the same batches, with the first one above all."""
    rows: list[tuple[str, tuple[int, ...], torch.Tensor]] = []
    for name, widths in track(candidates):
        subnet = dict(zip(subject.space.names, map(int, widths), strict=True))
        model = cut_(copy.deepcopy(subject.model), subject.layout, subnet)
        losses = batch_losses(reconstruction.fit_(model, subnet), batches)
        rows.append((name, tuple(subnet.values()), losses))
    first = rows[0][2]
    return [
        Judgement(name, widths, float(losses.mean()), *paired_gain(first, losses))
        for name, widths, losses in rows
    ]


def winner(judged: Sequence[Judgement]) -> Judgement:
    """The candidate of the least loss, if it beats the first one by more than a standard error."""
    best = min(judged, key=lambda row: row.loss)
    return best if Gain(best.gain, best.error).sure else judged[0]


def finite(error: float) -> float | None:
    """A standard error, or ``None`` where a single batch tells none."""
    return error if math.isfinite(error) else None


def verdict(judged: Sequence[Judgement], best: Judgement, images: int) -> str:
    """Why a candidate was taken, judged on so many images, in one line."""
    first, others = judged[0], judged[1:]
    if not others:
        return f'{first.name} is the only candidate'
    other = best if best is not first else min(others, key=lambda row: row.loss)
    error = 'unknown' if finite(other.error) is None else f'{other.error:.4f}'
    way = 'lower' if other.gain > 0 else 'higher'
    gain = f'its loss is {abs(other.gain):.4f} {way}, standard error {error}, on {images} images'
    if best is not first:
        return f'{best.name} is better than {first.name}: {gain}'
    return f'kept {first.name}: {other.name} is not better by more than a standard error; {gain}'
