"""What is asked of a pruning."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmengine.config import Config

from mmpse.openmmlab.checkpoints.supernet import file_digest, untracked_layers
from mmpse.openmmlab.deploy.runtimes import check_runtime
from mmpse.openmmlab.errors import name_of
from mmpse.openmmlab.types import in_scope, is_type
from mmpse.slim import IMPORTANCES

from .request import check_request
from .steps import PruneError
from .subject import Subject, examine


@dataclass(frozen=True)
class Order:
    """What was asked for; see :func:`mmpse.prune`."""

    limits: Mapping[str, str | float]
    runtime: str = 'torch'
    how: str = 'sensitivity'
    epochs: int | None = None
    teacher: bool = False
    finetune: bool = True
    sort: str = 'selection'
    divisor: int = 8
    keep: Sequence[str] = ()
    grids: Mapping[str, Mapping[str, Any]] | None = None
    input_shape: Sequence[int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_request(self.limits, self.how)
        if self.sort not in IMPORTANCES:
            raise PruneError(f'sort (--sort) is one of {", ".join(IMPORTANCES)}, not {self.sort}')
        if not 0 <= self.seed < 2**32:
            raise PruneError(f'seed (--seed) is {self.seed}, expected 0 to {2**32 - 1}')
        if 'latency' in self.limits:
            check_runtime(self.runtime)

    def settings(self, cfg: Config, checkpoint: str | os.PathLike) -> dict[str, Any]:
        """What makes this pruning another one than any other."""
        settings = asdict(self)
        settings['limits'] = {name: str(limit) for name, limit in self.limits.items()}
        return dict(settings, config=cfg.pretty_text, checkpoint=file_digest(os.fspath(checkpoint)))

    def examine(self, cfg: Config, checkpoint: str | os.PathLike) -> Subject:
        """The model, its units, and what its subnets cost in FLOPs and parameters.

        Raises:
            PruneError: If the model is a pruned one, or the checkpoint is a supernet's.
        """
        with in_scope(cfg):
            if is_type(cfg.model, 'mmpse.Pruned'):
                raise PruneError(
                    f'{name_of(cfg)} is of a pruned model; prune the model that it was cut from, '
                    'to the smaller budget'
                )
        subject = examine(
            cfg, checkpoint, self.input_shape, self.divisor, self.grids, True, self.keep
        )
        if names := untracked_layers(subject.model.state_dict()):
            raise PruneError(
                f'{subject.weights.source} is the checkpoint of a supernet, which has no BatchNorm '
                f'statistics (the first: {names[0]}); search its widths (mmpse search), or give '
                'the checkpoint of a trained model'
            )
        return subject
