"""Widths by PSE-Net on the user's own model: it is trained as a supernet, and its losses choose."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.device import is_cuda_available

from mmpse.errors import UserError
from mmpse.openmmlab.configs.building import merged, neutral
from mmpse.openmmlab.configs.datasets import batch_size_of
from mmpse.openmmlab.configs.files import importing
from mmpse.openmmlab.configs.pruned import thawed
from mmpse.openmmlab.configs.splits import HeldOut
from mmpse.openmmlab.models.losses import preprocessed, training_batches
from mmpse.openmmlab.supernet.record import recorded_losses
from mmpse.search import best_few, notch_table, predictor_of
from mmpse.space import Budget, uniform_within

from .recipe import Recipe
from .subject import RATIOS, Subject

SHARE = 0.25  # of the schedule of supernet and fine-tuning
GROUPS = 4  # subnets that share a batch, where its size allows it
JUDGED_IMAGES = 128  # of those held out, at most
BEST = 3  # of the predictor's subnets, that are judged


class Chosen(NamedTuple):
    """What the losses of a supernet say."""

    widths: np.ndarray  # the best few (subnets, units); none where nothing surely beats the start
    notches: str  # what a notch of each unit costs, as a table
    losses: int  # that it rests on


def supernet_end(total: int) -> int:
    """Where in a schedule of some length the supernet's training ends.

    Raises:
        ValueError: If the schedule is too short to be shared.
    """
    if total < 2:
        raise UserError(
            'a search shares the schedule of the fine-tuning with a supernet, and it is of length '
            f'{total}; give at least 2 epochs'
        )
    return max(1, round(SHARE * total))


def supernet_changes(
    subject: Subject,
    split: HeldOut,
    recipe: Recipe,
    budget: Budget,
    start: Sequence[int],
    teacher: Mapping[str, Any],
    divisor: int,
    grids: Mapping[str, Mapping[str, Any]] | None,
    seed: int,
) -> dict[str, Any]:
    """What makes a user's config that of the training of its model as a supernet.

    Nothing is frozen, validated, or trained on images that are held out.

    Args:
        split: Its data.
        recipe: The schedule.
        budget: The budget, around which subnets are drawn.
        start: Widths to improve on, around which others are drawn.
        teacher: ``teacher`` and ``checkpoint`` of :class:`mmpse.DistillationHook`: of the sorted
            model, from whose weights the supernet starts.
        divisor, grids: Of the search space.
    """
    cfg = subject.cfg
    changes = dict(importing(cfg), **neutral(cfg))
    if free := thawed(cfg):
        changes['model'] = merged(changes.get('model', {}), free).to_dict()
    loader, groups = _loader(split)
    hook = dict(
        type='mmpse.SupernetHook',
        n=groups,
        fullnet=False,
        tinynet=False,
        sampler=dict(
            type='mmpse.BudgetSampler',
            budget=_around(subject, budget),
            start=dict(zip(subject.space.names, map(int, start), strict=True)),
        ),
        execution=_execution(subject),
        teacher=dict(teacher, every=1),  # a short training has few losses to record
        ratios=list(RATIOS),
        divisor=divisor,
        grids=grids and {key: dict(grid) for key, grid in grids.items()},
        input_shape=list(subject.input_shape),
    )
    changes.update(recipe.run(cfg, teacher['checkpoint'], seed, [hook]))
    changes['train_dataloader'] = dict(loader, _delete_=True)
    validation = ('val_cfg', 'val_dataloader', 'val_evaluator')
    changes.update({key: None for key in validation if cfg.get(key) is not None})
    return changes


def _loader(split: HeldOut) -> tuple[dict[str, Any], int]:
    """The dataloader of a supernet, all of whose batches are of one size, and its subnets."""
    loader = split.train.to_dict()
    size = min(batch_size_of(loader), split.total - split.images)
    groups = max(n for n in range(1, GROUPS + 1) if size % n == 0)
    if loader.get('batch_size'):
        loader['batch_size'] = size
    if loader.get('batch_sampler'):
        loader['batch_sampler']['drop_last'] = True
    else:
        loader['drop_last'] = True
    return loader, groups


def _around(subject: Subject, budget: Budget) -> dict[str, float]:
    """A budget in what the hook counts: of a latency, the FLOPs of uniform pruning."""
    limits = {name: high for name, (_, high) in budget.limits.items()}
    if limits.keys() <= {'flops', 'params'}:
        return limits
    uniform = dict(zip(subject.space.names, uniform_within(subject.space, budget)))
    return dict(flops=subject.cost_of(uniform)['flops'])


def _execution(subject: Subject) -> str:
    if any(getattr(m, 'with_cp', False) for m in subject.model.modules()):
        return 'masked'
    # on a CPU slices are the faster, and a choice by measuring could not be repeated
    return 'auto' if is_cuda_available() else 'sliced'


def choose_by_record(
    subject: Subject, budget: Budget, start: np.ndarray, checkpoint: str | os.PathLike
) -> Chosen:
    """The widths that the losses of a supernet's training predict to be the best.

    Args:
        start: Widths to improve on ``(units,)``.
        checkpoint: What the training left.

    Raises:
        ValueError: If the training recorded no losses.
    """
    content = torch.load(checkpoint, map_location='cpu', weights_only=False)
    record = recorded_losses(content)
    if record is None:
        raise UserError(f'{checkpoint} holds no losses of subnets; train the supernet for longer')
    space = subject.space
    predictor = predictor_of(space, budget, start, *record)
    widths, notches = best_few(predictor, budget, BEST), notch_table(predictor.notches())
    return Chosen(widths, notches, len(record[0]))


def unseen_batches(subject: Subject, split: HeldOut, seed: int) -> list[Any]:
    """Batches of images that the supernet was not trained on, many for a standard error."""
    images = min(split.images, JUDGED_IMAGES)
    size = min(batch_size_of(split.unseen), max(1, math.ceil(images / 8)))
    loader = dict(split.unseen, batch_size=size)
    return preprocessed(subject.model, training_batches(loader, images, subject.scope, seed))
