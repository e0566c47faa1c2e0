"""The metrics of a model on a split of its config."""

from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from mmpse.openmmlab.errors import ConfigError, name_of, one_line
from mmpse.openmmlab.progress import Track
from mmpse.openmmlab.silence import silent
from mmpse.openmmlab.types import in_scope


@torch.no_grad()
def evaluate(
    model: nn.Module, cfg: Config, split: str = 'val', track: Track = iter
) -> dict[str, Any]:
    """The metrics of a model on a split, by the config's own dataloader and evaluator.

    No tables are printed.

    Args:
        model: A model of the config, full or cut; it is in eval mode afterwards.
        split: ``'val'`` or ``'test'``.

    Raises:
        ConfigError: If the dataloader or the evaluator is missing, or that cannot be built.
    """
    for key in (f'{split}_dataloader', f'{split}_evaluator'):
        if not cfg.get(key):
            raise ConfigError(f'the config has no {key} to evaluate with; give one that has')
    settings = cfg[f'{split}_evaluator']
    with in_scope(cfg):
        with silent():
            loader = Runner.build_dataloader(dict(cfg[f'{split}_dataloader']), seed=0)
        try:
            with silent():
                evaluator = Runner.build_evaluator(None, settings)
        except (KeyError, TypeError, ValueError) as error:  # of the registry, or of the metric
            raise ConfigError(
                f'cannot build the {split}_evaluator of {name_of(cfg)} ({one_line(error)})'
            ) from error
        evaluator.dataset_meta = getattr(loader.dataset, 'metainfo', None)
        model.eval()
        if hasattr(model, 'prepare_prototype'):  # a retriever may hold those of another model
            model.prepare_prototype()
        for batch in track(loader):
            evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
        with silent():
            return evaluator.evaluate(len(loader.dataset))
