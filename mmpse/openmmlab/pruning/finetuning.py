"""The pruned model's config, and its fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config

from mmpse.openmmlab.configs.building import neutral
from mmpse.openmmlab.configs.files import importing
from mmpse.space import Subnet

from .recipe import Recipe


def pruned_changes(cfg: Config, subnet: Subnet) -> dict[str, Any]:
    """What makes a config that of the pruned model: it loads nothing, and freezes nothing.

    Frozen layers could not make up for what was cut.
    """
    changes = dict(importing(cfg), **neutral(cfg))
    content = subnet.to_dict()
    model = changes.setdefault('model', {})
    model.update(
        type='mmpse.Pruned',
        architecture=cfg.model.type,
        subnet={key: content[key] for key in ('schema', 'backbone', 'widths')},
    )
    for key, change in thawed(cfg).items():
        model[key] = {**change, **model.get(key, {})}
    return changes


def thawed(cfg: Config) -> dict[str, dict[str, Any]]:
    """Part of the model -> what makes its config freeze nothing."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in cfg.model.items():
        if not isinstance(value, Mapping):
            continue
        if value.get('frozen_stages', -1) >= 0:
            found.setdefault(key, {})['frozen_stages'] = -1
        if (value.get('norm_cfg') or {}).get('requires_grad') is False:
            found.setdefault(key, {})['norm_cfg'] = dict(requires_grad=True)
    return found


def finetune_changes(
    cfg: Config, recipe: Recipe, start: str, teacher: Mapping[str, Any] | None, seed: int
) -> dict[str, Any]:
    """What makes the pruned model's config that of its fine-tuning.

    Args:
        cfg: The pruned model's config.
        recipe: The schedule.
        start: Checkpoint of the cut model.
        teacher: Arguments of :class:`mmpse.DistillationHook`; ``None``: no teacher.
        seed: Seed of the training.
    """
    hooks = [dict(type='mmpse.SeedHook')]
    if teacher is not None:
        hooks.append(dict(type='mmpse.DistillationHook', **teacher))
    return run_changes(cfg, recipe, start, seed, hooks)


def run_changes(
    cfg: Config, recipe: Recipe, start: str, seed: int, hooks: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What makes a config that of a part of the schedule, from a checkpoint, with more hooks."""
    changes = dict(recipe.changes)
    changes['load_from'] = start
    changes['randomness'] = dict(cfg.get('randomness') or {}, seed=seed)
    own = changes.get('custom_hooks', cfg.get('custom_hooks') or [])
    changes['custom_hooks'] = [*own, *hooks]
    return changes
