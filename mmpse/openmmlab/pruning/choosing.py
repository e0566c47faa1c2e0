"""Choosing widths for a trained model: uniform, by sensitivity; judged beside each other."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from mmpse.openmmlab.models.losses import Track, batch_losses
from mmpse.search.allocate import allocate
from mmpse.search.gains import Gain, paired_gain
from mmpse.search.sensitivity import candidate_losses
from mmpse.slim import Reconstruction, cut_
from mmpse.space import Budget, uniform_within

from .subject import Subject

BEST = 3  # of the widths by sensitivity, that are judged


class Judgement(NamedTuple):
    """How a candidate did on images that its choice did not see."""

    name: str  # how it was chosen
    widths: tuple[int, ...]
    loss: float  # mean over the batches
    gain: float  # how much less it loses than the first one, mean over the batches
    error: float  # standard error of that


def by_sensitivity(
    subject: Subject,
    budget: Budget,
    sensitivity: Mapping[str, Mapping[int, float]],
) -> np.ndarray:
    """Widths that should lose least, each unit taken by itself; the best few ``(subnets, units)``.

    Args:
        sensitivity: Unit -> width -> loss, as :func:`measure_sensitivity` gives it.
    """
    table = candidate_losses(subject.space, sensitivity)
    starts = uniform_within(subject.space, budget)[None]
    return allocate(subject.space, budget, table, starts=starts, count=BEST)


@torch.no_grad()
def judge(
    subject: Subject,
    reconstruction: Reconstruction,
    candidates: Sequence[tuple[str, Sequence[int]]],
    batches: Sequence[Mapping[str, Any]],
    track: Track = iter,
) -> list[Judgement]:
    """Compare candidates by their losses on the same batches, with the first one above all.

    Each is cut and reconstructed, as the one that is chosen will be.
    """
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
    """Why a candidate was taken, in one line.

    Args:
        judged: All candidates; the first one stays unless it is beaten.
        best: Which was taken.
        images: How many they were judged on.
    """
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
