"""What is asked of a pruning."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmpse.openmmlab.checkpoints.supernet import file_digest, untracked
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.errors import name_of
from mmpse.openmmlab.types import is_type

from .steps import PruneError
from .subject import Subject, examine

HOWS = ('uniform', 'sensitivity', 'search')


@dataclass(frozen=True)
class Order:
    """What was asked for; see :func:`mmpse.prune`."""

    limits: Mapping[str, str | float]
    runtime: str
    how: str
    epochs: int | None
    teach: bool
    tune: bool
    sort: str
    divisor: int
    grids: Mapping[str, Mapping[str, Any]] | None
    input_shape: Sequence[int] | None
    seed: int

    def __post_init__(self) -> None:
        if not self.limits:
            raise PruneError("give a budget: flops='50%', params='5M' or latency='12ms'")
        if self.how not in HOWS:
            raise PruneError(f'how must be one of {HOWS}, got {self.how!r}')

    def settings(self, cfg: Config, checkpoint: str | os.PathLike) -> dict[str, Any]:
        """What makes this pruning another one than any other."""
        settings = asdict(self)
        settings['limits'] = {name: str(limit) for name, limit in self.limits.items()}
        return dict(settings, config=cfg.pretty_text, checkpoint=file_digest(os.fspath(checkpoint)))

    def examine(self, config: str | os.PathLike | Config, checkpoint: str | os.PathLike) -> Subject:
        """The model, its units, and what its subnets cost in FLOPs and parameters.

        Raises:
            PruneError: If the model is a pruned one, or the checkpoint is a supernet's.
        """
        cfg = load_config(config)
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            if is_type(cfg.model, 'mmpse.Pruned'):
                raise PruneError(
                    f'{name_of(cfg)} is of a pruned model; prune the model that it was cut from, '
                    'to the smaller budget'
                )
        subject = examine(
            config,
            checkpoint,
            self.input_shape,
            self.divisor,
            self.grids,
            shared=self.how == 'search',
            show=True,
        )
        if names := untracked(subject.model.state_dict()):
            raise PruneError(
                f'{subject.weights.source} is the checkpoint of a supernet, which has no BatchNorm '
                f'statistics (the first: {names[0]}); search its widths (mmpse search), or give '
                'the checkpoint of a trained model'
            )
        return subject
