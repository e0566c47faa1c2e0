"""Whether a fine-tuning can begin, which is told before hours of choosing."""

import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, LOOPS, OPTIMIZERS, Registry
from torch import nn

from mmpse.errors import is_bug
from mmpse.openmmlab.configs.building import merged
from mmpse.openmmlab.errors import one_line
from mmpse.openmmlab.silence import silent
from mmpse.openmmlab.types import find_type, in_scope

from .recipe import Recipe
from .steps import PruneError


def check_trainable(cfg: Config, recipe: Recipe, model: nn.Module) -> None:
    """Make sure that the loop, the hooks and the optimizer of a fine-tuning can be built.

    Loop and hooks are not constructed: they ask for what only a runner has.

    Raises:
        PruneError: If they cannot.
    """
    with in_scope(cfg):
        content = merged(cfg.to_dict(), recipe.changes)
        hooks = {f'default_hooks.{k}': v for k, v in (content.get('default_hooks') or {}).items()}
        hooks |= {f'custom_hooks[{k}]': v for k, v in enumerate(content.get('custom_hooks') or [])}
        for name, hook in hooks.items():
            if isinstance(hook, Mapping):
                _check(name, hook, HOOKS)
        loop = content.train_cfg
        if 'type' in loop and 'by_epoch' in loop:
            raise _problem('train_cfg has both type and by_epoch, of which MMEngine takes one')
        if 'type' in loop:
            _check('train_cfg', dict(loop, runner=None, dataloader=None), LOOPS)
        _known('optim_wrapper.optimizer', content.optim_wrapper.optimizer, OPTIMIZERS)
        try:
            with silent():
                build_optim_wrapper(model, content.optim_wrapper)
        except Exception as error:  # optimizers and their constructors raise whatever they do
            if is_bug(error):
                raise
            reason = f'{type(error).__name__}: {one_line(error)}'
            raise _problem(f'optim_wrapper cannot be built ({reason})') from error


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
