"""Whether a fine-tuning can begin, which is told before hours of choosing."""

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, LOOPS, MODELS, OPTIMIZERS, VISUALIZERS, Registry
from torch import nn

from mmpse.errors import is_bug
from mmpse.openmmlab import compat
from mmpse.openmmlab.configs.building import merged
from mmpse.openmmlab.errors import listed, one_line
from mmpse.openmmlab.jobs import check_complete
from mmpse.openmmlab.seeding import drawn_aside
from mmpse.openmmlab.silence import silent
from mmpse.openmmlab.types import find_type, in_scope, is_type

from .recipe import Recipe
from .steps import PruneError


def check_trainable(cfg: Config, recipe: Recipe, model: nn.Module) -> None:
    """Make sure that the loop, the hooks and the optimizer of a fine-tuning can be built.

    Loop and hooks are not constructed: they ask for what only a runner has. Those that pass
    arguments on are, since it shows only then whether they are right.

    Raises:
        ConfigError: If the config lacks a part of what a loop takes.
        PruneError: If they cannot.
    """
    check_complete(cfg)
    with in_scope(cfg):
        content = merged(cfg.to_dict(), recipe.changes)
        hooks = {f'default_hooks.{k}': v for k, v in (content.get('default_hooks') or {}).items()}
        hooks |= {f'custom_hooks[{k}]': v for k, v in enumerate(content.get('custom_hooks') or [])}
        for name, hook in hooks.items():
            if isinstance(hook, Mapping):
                _check(name, hook, HOOKS)
                if is_type(hook, (CheckpointHook, EMAHook), HOOKS):
                    _check_passed_on(name, hook, model)
        loop = content.train_cfg
        if 'type' in loop and 'by_epoch' in loop:
            raise _problem('train_cfg has both type and by_epoch, of which MMEngine takes one')
        if 'type' in loop:
            _check('train_cfg', dict(loop, runner=None, dataloader=None), LOOPS)
        for name, registry in (('val_cfg', LOOPS), ('visualizer', VISUALIZERS)):
            if 'type' in (content.get(name) or {}):
                _known(name, content[name], registry)
        _known('optim_wrapper.optimizer', content.optim_wrapper.optimizer, OPTIMIZERS)
        with _explained('optim_wrapper cannot be built'), silent():
            build_optim_wrapper(model, content.optim_wrapper)


def check_losses_in_training(model: nn.Module, batch: Any) -> None:
    """Make sure that a model has losses in training mode, which some refuse.

    Args:
        batch: Training images as the dataloader gives them.

    Raises:
        PruneError: If it has none.
    """
    trained = copy.deepcopy(model)
    trained.train()
    # without gradients it fits into memory where a training in half precision does
    with (
        _explained(f'a training step of {type(model).__name__} fails'),
        compat.training_ends(),
        drawn_aside(0),
        torch.no_grad(),
    ):
        data = trained.data_preprocessor(copy.deepcopy(batch), True)
        compat.forward_by_mode(trained, data, mode='loss')


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """What the user's classes raise in a ``with`` block is a PruneError that says ``what``."""
    try:
        yield
    except Exception as error:  # they raise whatever they do
        if is_bug(error):
            raise
        raise _problem(f'{what} ({type(error).__name__}: {one_line(error)})') from error


def _check_passed_on(name: str, hook: Mapping[str, Any], model: nn.Module) -> None:
    """Check the arguments that a hook does not take itself."""
    with _explained(f'{name} cannot be built'), silent():
        built = HOOKS.build({k: v for k, v in hook.items() if k != 'priority'})
        if isinstance(built, EMAHook):
            MODELS.build(built.ema_cfg, default_args=dict(model=model))
    if isinstance(built, CheckpointHook):
        wrong = [key for key in built.args if key != 'meta']  # of Runner.save_checkpoint
        if wrong:
            raise _problem(f'{name}: {hook["type"]} got unexpected arguments {listed(wrong)}')


def _known(name: str, config: Mapping[str, Any], registry: Registry) -> Any:
    kind = find_type(config, registry)
    if kind is None:
        raise _problem(
            f'{name} has the type {config.get("type")}, which is not there (install its package, '
            'or name its module in custom_imports)'
        )
    return kind


def _check(name: str, config: Mapping[str, Any], registry: Registry) -> None:
    arguments = {k: v for k, v in config.items() if k not in ('type', 'priority', '_scope_')}
    try:
        inspect.signature(_known(name, config, registry)).bind(**arguments)
    except TypeError as error:
        raise _problem(f'{name}: {config["type"]} {error}') from error


def _problem(text: str) -> PruneError:
    return PruneError(f'the fine-tuning could not begin: {text}; mend the config, or --no-finetune')
