"""The config of a pruned model, from that of the full one."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmpse.openmmlab.types import default_of, in_scope
from mmpse.registry import MODELS
from mmpse.space import Subnet

from .building import merged, neutral
from .files import importing


def pruned_changes(cfg: Config, subnet: Subnet, model: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a config that of the pruned model; it loads no weights from anywhere.

    Nor does it name the folder of the full model's training, whose checkpoints another training
    there would replace.

    Args:
        model: More changes of ``model``, such as those of :func:`thawed`.
    """
    content = subnet.to_dict()
    pruned = dict(
        type='mmpse.Pruned',
        architecture=cfg.model.type,
        subnet={key: content[key] for key in ('schema', 'backbone', 'widths')},
    )
    changes = dict(importing(cfg), **neutral(cfg))
    if cfg.get('work_dir') is not None:
        changes['work_dir'] = None
    changes['model'] = dict(merged(changes.get('model', {}), model).to_dict(), **pruned)
    return changes


def thawed(cfg: Config, statistics: bool = False) -> dict[str, dict[str, Any]]:
    """The changes after which a model freezes nothing: frozen layers cannot adapt to a cut.

    Args:
        statistics: Whether BatchNorms are to learn their statistics, too.
    """
    with in_scope(cfg):
        return _thawed(cfg.model, statistics)


def _thawed(config: Mapping[str, Any], statistics: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if (stages := config.get('frozen_stages')) is not None and stages >= 0:
        found['frozen_stages'] = -1
    if statistics and config.get('norm_eval', default_of(config, 'norm_eval', MODELS)):
        found['norm_eval'] = False
    for key, value in config.items():
        if key == 'norm_cfg' and value and value.get('requires_grad') is False:
            found[key] = dict(requires_grad=True)
        elif isinstance(value, Mapping) and not key.startswith('teacher'):
            if inside := _thawed(value, statistics):
                found[key] = inside
    return found
