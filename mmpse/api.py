"""``mmpse.prune``: a trained model becomes a smaller one. :mod:`mmpse.functions` has its parts."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.deploy.latency import error_sentence
from mmpse.openmmlab.pruning.crew import Crew
from mmpse.openmmlab.pruning.job import Pruning
from mmpse.openmmlab.pruning.latency import AGAIN, add_latency
from mmpse.openmmlab.pruning.order import Order
from mmpse.openmmlab.pruning.reach import reachable
from mmpse.openmmlab.pruning.steps import PruneError, Steps
from mmpse.space import Subnet

__all__ = ['PruneError', 'Result', 'prune']


@dataclass(frozen=True)
class Result:
    """What :func:`prune` gives."""

    model: nn.Module  # the pruned one, in eval mode
    subnet: Subnet  # its widths
    # 'before', 'cut', 'after' -> metrics and resources; of a dry run 'lowest', 'uniform', 'full'
    table: dict[str, dict[str, float | None]]
    out: Path  # the folder that holds everything


def prune(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike,
    *,
    flops: str | float | None = None,
    params: str | float | None = None,
    latency: str | None = None,
    runtime: str = 'torch',
    how: str = 'sensitivity',
    epochs: int | None = None,
    finetune: bool = True,
    teacher: bool = False,
    sort: str = 'selection',
    divisor: int = 8,
    keep: Sequence[str] = (),
    grids: Mapping[str, Mapping[str, Any]] | None = None,
    input_shape: Sequence[int] | None = None,
    seed: int = 0,
    out: str | os.PathLike = 'pruned',
    resume: bool = False,
    dry_run: bool = False,
    launcher: str = 'none',
) -> Result | None:
    """Prune a trained model as a whole, and fine-tune it.

    Its units are found, sorted by importance, given widths, cut, reconstructed and fine-tuned:
    optimizer, data and batch size are the config's, the schedule of the learning rate is that of
    :func:`mmpse.openmmlab.pruning.recipe.finetune`. Widths are chosen on training images; the
    validation split measures what came of it, and the test split is never touched.

    Args:
        config: Any config of a classifier, detector or segmentor.
        checkpoint: The trained weights of its model.
        flops, params: The budget: a share of the model (``'50%'``) or an amount (``'5M'``).
            Several hold at once.
        latency: The same of one image's latency, measured here: ``'50%'`` or ``'12ms'``.
        runtime: What latency is measured in, see :func:`mmpse.deploy.prepared`.
        how: ``'uniform'``: one ratio for all units. ``'sensitivity'``: by what the model loses
            where a unit is cut, unless that is no better than uniform on other training images.
            ``'search'``: by what subnets near those lose, all units cut at once and reconstructed,
            unless that is no better.
        epochs: Length of the fine-tuning; by default a quarter of the config's own training.
        finetune: Whether it is fine-tuned; otherwise it is cut and reconstructed only.
        teacher: Whether the model as it was teaches the fine-tuning
            (:class:`mmpse.DistillationHook`), which then takes 1.2 to 1.5 times as long.
        sort: Importance of channels, see :func:`mmpse.slim.sorting.importances`.
        divisor: Widths are multiples of it.
        keep: Patterns of names of units that keep their width, as ``'neck.*'``.
        grids: Units that need other widths, see :class:`mmpse.space.SearchSpace`.
        input_shape: ``(C, H, W)`` of the image that FLOPs are counted for; by default that of the
            config's tests.
        seed: Seed of everything.
        out: Folder for the results: ``pruned.py``, ``pruned.pth``, ``subnet.json``,
            ``report.json``, ``report.html``.
        resume: Go on in ``out`` where an earlier call with the same arguments stopped.
        dry_run: Print what is reachable and what is fixed, and write nothing. The result holds the
            full model, the uniform subnet, and the table of what is reachable.
        launcher: MMEngine's launcher, for the fine-tuning in many processes.

    Returns:
        The result; ``None`` in the processes of a ``launcher`` that only help to train.

    Raises:
        PruneError: If the arguments make no sense, or ``out`` is not empty.
        BudgetError: If no subnet meets the budget.

    Examples:
        >>> result = mmpse.prune('my_retinanet.py', 'epoch_16.pth', flops='50%', epochs=8)
        >>> result.table['after']
    """
    limits = dict(latency=latency, flops=flops, params=params)
    limits = {name: limit for name, limit in limits.items() if limit is not None}
    order = Order(
        limits,
        runtime=runtime,
        how=how,
        epochs=epochs,
        teacher=teacher,
        finetune=finetune,
        sort=sort,
        divisor=divisor,
        keep=[keep] if isinstance(keep, str) else keep,
        grids=grids,
        input_shape=input_shape,
        seed=seed,
    )
    if dry_run:
        subject = order.examine(load_config(config), checkpoint)
        if latency is not None:
            if sentence := error_sentence(add_latency(subject, runtime)['error'], AGAIN):
                print(sentence)
        reach = reachable(subject, order.limits)
        print(reach)
        return Result(subject.model, reach.uniform, reach.rows, Path(out))
    crew = Crew(launcher)
    if not crew.leads:
        crew.follow()
        return None
    with crew:
        steps = Steps(Path(out), resume)
        pruning = Pruning(config, checkpoint, order, steps, crew)
        return Result(*pruning.run(), steps.out)
