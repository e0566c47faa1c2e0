"""The config of a pruned model, from that of the full one."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from mmengine.config import Config

from mmpse.openmmlab.types import default_of, in_scope
from mmpse.registry import MODELS
from mmpse.space import Subnet

from .building import changes_of, merged, neutral
from .files import importing


def pruned_changes(
    cfg: Config, subnet: Subnet, *, thaw: bool = False, statistics: bool = False
) -> dict[str, Any]:
    """What makes a config that of the pruned model; it loads no weights from anywhere.

    Nor does it name the folder of the full model's training, whose checkpoints another training
    there would replace.

    Args:
        thaw: Whether nothing is to be frozen: frozen layers cannot adapt to a cut.
        statistics: With ``thaw``, whether BatchNorms are to learn their statistics, too.
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
    model = changes.get('model', {})
    if thaw:  # after the others, since both may change a list
        with in_scope(cfg):
            rule = partial(_thawed, statistics=statistics)
            model = merged(model, changes_of(merged(cfg.model, model), rule)).to_dict()
    changes['model'] = dict(model, **pruned)
    return changes


def _thawed(config: Mapping[str, Any], statistics: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if (stages := config.get('frozen_stages')) is not None and stages >= 0:
        found['frozen_stages'] = -1
    if statistics and config.get('norm_eval', default_of(config, 'norm_eval', MODELS)):
        found['norm_eval'] = False
    norm = config.get('norm_cfg')
    if isinstance(norm, Mapping) and norm.get('requires_grad') is False:
        found['norm_cfg'] = dict(requires_grad=True)
    return found
