"""A config's model, built without its downloads; and the config without what loads weights."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from torch import nn

from mmpse.errors import is_bug
from mmpse.openmmlab import compat
from mmpse.openmmlab.errors import ConfigError, name_of, one_line
from mmpse.openmmlab.silence import silent
from mmpse.openmmlab.types import is_type
from mmpse.registry import MODELS


def build_model(cfg: Config) -> nn.Module:
    """The model of a config, in its scope, on this machine alone.

    Nothing is downloaded or read: whatever would load weights (``init_cfg``, ``pretrained``, a
    teacher's checkpoint) is left out, and the model's own random initialisation is done.
    Synchronised BatchNorms, which need a distributed job, become plain ones.

    Raises:
        ConfigError: If a class that it names is missing, or refuses its arguments.
    """
    model = ConfigDict(copy.deepcopy(cfg.model))
    if cfg.get('data_preprocessor') is not None:  # as the runner does
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    scope = cfg.get('default_scope') or 'mmengine'
    try:
        with DefaultScope.overwrite_default_scope(scope), silent():
            built = MODELS.build(_offline(model, scope))
            if hasattr(built, 'init_weights'):
                built.init_weights()
    except Exception as error:  # constructors raise whatever they do
        if is_bug(error):
            raise
        reason = f'{type(error).__name__}: {one_line(error)}'
        raise ConfigError(f'cannot build the model of {name_of(cfg)} ({reason})') from error
    return revert_sync_batchnorm(built)


def _offline(value: Any, scope: str) -> Any:
    """A model's config that reads nothing and needs no distributed job."""
    if isinstance(value, (list, tuple)):
        return type(value)(_offline(item, scope) for item in value)
    if not isinstance(value, Mapping):
        return value
    value = ConfigDict({k: _offline(v, scope) for k, v in value.items()})
    value.update(_loading(value))
    if value.get('teacher_ckpt') is not None:
        value.teacher_ckpt = None
    teacher = value.get('teacher_config')
    if isinstance(teacher, str) and not Path(teacher).is_file():
        # mmdet looks for it in a checkout of its repository
        name = f'{scope}::{teacher.removeprefix("configs/")}'
        teacher = Config.fromfile(compat.config_path(name))
        value.teacher_config = dict(model=_offline(teacher.model, scope))
    norm = value.get('norm_cfg')
    if isinstance(norm, Mapping) and is_type(norm, 'MMSyncBN'):
        # mmcv's cannot even be constructed outside a distributed job
        kept = ('eps', 'momentum', 'affine', 'track_running_stats', 'requires_grad')
        value.norm_cfg = dict(type='BN', **{k: norm[k] for k in kept if k in norm})
    return value


def neutral(cfg: Config) -> dict[str, Any]:
    """The changes after which a config loads no weights from anywhere: all start at random.

    ``load_from`` and ``resume``, and whatever loads in the model or a part of it (an ``init_cfg``
    with a checkpoint, ``mmpse.WarmStart`` included; ``pretrained``). A random initialisation stays,
    and so do the weights of a teacher.

    Returns:
        Changes for :func:`write_config`, e.g.
        ``{'load_from': None, 'model': {'backbone': {'init_cfg': None}}}``; ``{}``: it loads none.
    """
    changes: dict[str, Any] = {}
    if cfg.get('load_from') is not None:
        changes['load_from'] = None
    if cfg.get('resume'):  # without load_from, the latest checkpoint of the work dir
        changes['resume'] = False
    if model := changes_of(cfg.model, _loading):
        changes['model'] = model
    return changes


def changes_of(
    config: Mapping[str, Any], rule: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """The changes of a model's config and of all inside it, but of its teachers', by a rule.

    A list with a change in it is among them as a whole, since one that inherits replaces it.

    Args:
        rule: The changes of what a config says of its own module.
    """
    changes = rule(config)
    for key, value in config.items():
        if str(key).startswith('teacher') or key in changes:
            continue
        if isinstance(value, Mapping):
            if change := changes_of(value, rule):
                changes[key] = change
        elif isinstance(value, (list, tuple)):
            items = [
                merged(item, changes_of(item, rule)) if isinstance(item, Mapping) else item
                for item in value
            ]
            if items != list(value):
                changes[key] = type(value)(items)
    return changes


def _loading(config: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a module's own config load nothing."""
    changes: dict[str, Any] = {}
    init = config.get('init_cfg')
    if isinstance(init, Mapping) and 'checkpoint' in init:
        changes['init_cfg'] = None
    elif isinstance(init, (list, tuple)):
        kept = [one for one in init if 'checkpoint' not in one]
        if len(kept) < len(init):
            changes['init_cfg'] = kept or None
    if config.get('pretrained'):  # init_cfg by its old name; timm's is a bool
        changes['pretrained'] = False if config['pretrained'] is True else None
    if config.get('checkpoint_path'):  # timm's
        changes['checkpoint_path'] = ''
    return changes


def merged(config: Mapping[str, Any], changes: Mapping[str, Any]) -> ConfigDict:
    """A config with changes, as one that inherits from it has them."""
    result = ConfigDict(copy.deepcopy(config))
    result.merge(copy.deepcopy(changes))
    return result
