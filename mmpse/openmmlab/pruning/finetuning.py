"""The config of a pruned model's fine-tuning."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config

from .recipe import Recipe


def finetune_changes(
    cfg: Config, recipe: Recipe, start: str, teacher: Mapping[str, Any] | None, seed: int
) -> dict[str, Any]:
    """What makes the pruned model's config that of its fine-tuning.

    Args:
        cfg: The pruned model's config.
        recipe: The schedule.
        start: Checkpoint of the cut model.
        teacher: Arguments of :class:`mmpse.DistillationHook`; ``None``: no teacher.
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
