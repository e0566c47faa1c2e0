"""How a pruned model is fine-tuned: the user's own recipe, made shorter."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.device import is_cuda_available
from mmengine.hooks import EarlyStoppingHook, EMAHook
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPERS

from mmpse.errors import UserError
from mmpse.openmmlab.types import default_of, find_type, in_scope, is_type
from mmpse.registry import PARAM_SCHEDULERS

SHARE = 0.25  # of the config's training, by default
# the peak learning rate for a share of the config's training, as a factor of its own
SHARES, FACTORS = (0.1, 0.25, 0.5), (0.1, 0.3, 1.0)
WARMUP, WARMUP_EPOCHS, WARMUP_ITERS = 0.05, 1, 1000  # share of the schedule; at most
CHECKPOINTS = 4  # at least, in a run
AMP_ONLY = ('loss_scale', 'dtype', 'use_fp16')  # arguments of AmpOptimWrapper
MOST_MOMENTUM = 0.1  # of an average of weights
# arguments of hooks: the epoch or iteration from which they act
POSITIONS = 'switch_epoch', 'begin_epoch', 'begin_iter'


class Recipe(NamedTuple):
    """A fine-tuning."""

    changes: dict[str, Any]  # of the config, for one that has it as ``_base_``
    text: str  # what was decided and why, in one line

    def run(
        self, cfg: Config, start: str, seed: int, hooks: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The changes of a config for a run from a checkpoint, with more hooks."""
        own = self.changes.get('custom_hooks', cfg.get('custom_hooks') or [])
        return dict(
            self.changes,
            load_from=start,
            randomness=dict(cfg.get('randomness') or {}, seed=seed),
            custom_hooks=[*own, *hooks],
        )


def finetune(cfg: Config, epochs: int | None = None, steps_per_epoch: int = 1) -> Recipe:
    """Make the training of a config a fine-tuning of a pruned model.

    * It takes a quarter of the config's epochs or iterations.
    * The peak learning rate is 0.1 of the config's for a tenth of its training, 0.3 for a quarter,
      the same from a half of it on, and linear in between.
    * After a warm-up over 5 % (at most an epoch, or 1000 iterations) one cosine ends at zero: it
      replaces all schedulers of the config.
    * Hooks that act from some epoch on, or in the last ones, do so at the same share of the
      training, rounded in favour of the last phase. An average of weights (EMA) reaches back over
      the same share of it.
    * A first phase of the training, which predictions that are worth nothing need, is left out.
    * Nothing is chosen by the validation split: no early stop, no best checkpoint.
    * All else stays: optimizer, paramwise settings, batch size, clipping, data, how often it
      validates. Mixed precision that needs a GPU becomes float32 where there is none.

    Args:
        cfg: The config that trained the model.
        epochs: Length of the fine-tuning.
        steps_per_epoch: Iterations that make an epoch, for a config that counts iterations.

    Raises:
        ValueError: If the config has no length or no learning rate, or ``epochs`` makes no sense.
    """
    with in_scope(cfg):
        plan = _Plan.of(cfg, epochs, steps_per_epoch)
        rate, peak = _peak(cfg)
        share = plan.total / plan.original
        factor = float(np.interp(share, SHARES, FACTORS))
        notes: list[str] = []
        changes: dict[str, Any] = dict(
            train_cfg=_train_cfg(cfg.train_cfg, plan),
            optim_wrapper=_optim_wrapper(cfg, peak * factor, notes),
            param_scheduler=[_scheduler(plan)],
        )
        content = cfg.to_dict()  # without the objects of new-style configs
        hooks = content.get('custom_hooks') or []
        moved = [hook for hook in (_moved(hook, plan, notes) for hook in hooks) if hook is not None]
        if moved != hooks:
            changes['custom_hooks'] = moved
        if default := _default_hooks(content.get('default_hooks') or {}, plan, notes):
            changes['default_hooks'] = default
        if first := (cfg.get('model', {}).get('train_cfg') or {}).get('initial_epoch'):
            # of TOOD, whose targets do not follow its predictions before they are worth something
            changes['model'] = dict(train_cfg=dict(initial_epoch=0))
            notes.append(f'without the first phase of the config, initial_epoch={first}')
        if (cfg.get('auto_scale_lr') or {}).get('enable'):
            notes.append('auto_scale_lr scales the rate by the batch size, as in the config')
    text = (
        f'{plan.count(plan.total)}, {share:.2g} of the {plan.original} of the config; peak '
        f'learning rate {peak * factor:.3g}, {factor:.3g} of its {rate} {peak:.3g} (0.1 of it for '
        'a tenth of its training, 0.3 for a quarter, all of it from a half on: another lr in the '
        f'config moves it); a warm-up over {plan.count(plan.warmup)}, then one cosine to 0'
    )
    return Recipe(changes, '; '.join([text, *notes]))


class _Plan(NamedTuple):
    """Lengths, in the unit in which a config counts."""

    original: int  # of the config's training
    total: int  # of the fine-tuning
    unit: str  # 'epoch' or 'iter'

    @classmethod
    def of(cls, cfg: Config, epochs: int | None, steps_per_epoch: int) -> _Plan:
        train_cfg = cfg.get('train_cfg') or {}
        unit = 'epoch' if train_cfg.get('max_epochs') else 'iter'
        original = train_cfg.get(f'max_{unit}s')
        if not original:
            raise UserError(
                'the config says neither train_cfg.max_epochs nor train_cfg.max_iters; give the '
                'config that the model was trained by'
            )
        if epochs is None:
            total = max(1, round(SHARE * original))
        elif epochs != int(epochs) or epochs < 1:
            raise UserError(f'epochs={epochs} must be a whole number, at least 1')
        else:
            total = int(epochs) * (1 if unit == 'epoch' else steps_per_epoch)
        return cls(original, total, unit)

    @property
    def warmup(self) -> float:
        most = WARMUP_EPOCHS if self.unit == 'epoch' else WARMUP_ITERS
        return min(round(WARMUP * self.total, 3), most)

    def move(self, position: int) -> int:
        """Where in the fine-tuning is what was somewhere in the config's training."""
        return position * self.total // self.original

    def count(self, length: float) -> str:
        unit = 'epoch' if self.unit == 'epoch' else 'iteration'
        return f'{length:g} {unit}{"s" * (length != 1)}'


def _peak(cfg: Config) -> tuple[str, float]:
    """The highest learning rate of a config, and what says it."""
    schedulers = cfg.get('param_scheduler') or []
    for scheduler in [schedulers] if isinstance(schedulers, Mapping) else schedulers:
        if is_type(scheduler, 'OneCycleLR', PARAM_SCHEDULERS):
            return 'eta_max', float(scheduler['eta_max'])
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    if 'lr' not in optimizer:
        raise UserError(
            'the config has no optim_wrapper.optimizer.lr (several optimizers cannot be scheduled '
            'by one recipe); set it'
        )
    return 'lr', float(optimizer['lr'])


def _optim_wrapper(cfg: Config, lr: float, notes: list[str]) -> dict[str, Any]:
    # by the class itself: mmpse.BFloat16OptimWrapper needs no GPU
    amp = find_type('AmpOptimWrapper', OPTIM_WRAPPERS)
    if is_cuda_available() or find_type(cfg.optim_wrapper, OPTIM_WRAPPERS) is not amp:
        return dict(optimizer=dict(lr=lr))
    notes.append('float32, since AmpOptimWrapper needs a GPU and there is none')
    old = cfg.to_dict()['optim_wrapper']
    kept = {key: value for key, value in old.items() if key not in AMP_ONLY}
    return dict(kept, _delete_=True, type='OptimWrapper', optimizer=dict(kept['optimizer'], lr=lr))


def _scheduler(plan: _Plan) -> dict[str, Any]:
    scheduler = dict(type='mmpse.WarmupCosineLR', total=plan.total, warmup=plan.warmup)
    if plan.unit == 'epoch':
        return dict(scheduler, by_epoch=True, convert_to_iter_based=True)
    return dict(scheduler, by_epoch=False)


def _train_cfg(train_cfg: Mapping[str, Any], plan: _Plan) -> dict[str, Any]:
    changes: dict[str, Any] = {f'max_{plan.unit}s': plan.total}
    if 'val_begin' in train_cfg:
        changes['val_begin'] = max(1, plan.move(train_cfg['val_begin']))
    if train_cfg.get('dynamic_intervals'):
        changes['dynamic_intervals'] = [
            (plan.move(milestone), interval)
            for milestone, interval in train_cfg['dynamic_intervals']
        ]
    return changes


# Hooks


def _default_hooks(
    hooks: Mapping[str, Any], plan: _Plan, notes: list[str]
) -> dict[str, dict[str, Any] | None]:
    """Changes of the default hooks, which a config may have given more of."""
    changes: dict[str, dict[str, Any] | None] = {}
    for name, hook in hooks.items():
        if name != 'checkpoint' and hook and (moved := _moved(hook, plan, notes)) != hook:
            changes[name] = moved
    if checkpoint := _checkpoint(hooks.get('checkpoint', {}), plan):
        changes['checkpoint'] = checkpoint
    return changes


def _checkpoint(hook: Mapping[str, Any] | None, plan: _Plan) -> dict[str, Any]:
    """Changes of the hook that saves checkpoints: the last is the result, and a run that was
    killed goes on from the others."""
    most = max(1, plan.total // CHECKPOINTS)
    if hook is None:  # the config saves none
        return dict(type='CheckpointHook', interval=most, by_epoch=plan.unit == 'epoch')
    ours = dict(save_best=None, save_last=True, save_begin=0, out_dir=None)
    changes: dict[str, Any] = {k: v for k, v in ours.items() if hook.get(k, v) != v}
    if hook.get('by_epoch', True) == (plan.unit == 'epoch') and hook.get('interval', -1) > most:
        changes['interval'] = most
    return changes


def _moved(hook: Mapping[str, Any], plan: _Plan, notes: list[str]) -> dict[str, Any] | None:
    """A hook in a shorter training; None: it has no place there."""
    hook, name = dict(hook), getattr(find_type(hook, HOOKS), '__name__', hook['type'])
    if is_type(hook, EarlyStoppingHook, HOOKS):
        notes.append(f'no {name}')
        return None
    known = {'num_last_epochs', *POSITIONS}
    for key in POSITIONS:
        if position := hook.get(key, default_of(hook, key, HOOKS)):
            hook[key] = plan.move(position)
    last = hook.get('num_last_epochs', default_of(hook, 'num_last_epochs', HOOKS))
    if last is not None:
        hook['num_last_epochs'] = math.ceil(last * plan.total / plan.original)
    if is_type(hook, 'mmpretrain.SwitchRecipeHook', HOOKS):
        hook['schedule'] = _switches(hook['schedule'], plan)
    if is_type(hook, EMAHook, HOOKS):
        _shorten_average(hook, plan)
    for key, value in hook.items():
        counts = re.search('epoch|iter', key) and 'interval' not in key and key not in known
        if counts and type(value) is int:
            notes.append(f'{name}.{key}={value} as in the config')
    return hook


def _switches(schedule: Sequence[Mapping[str, Any]], plan: _Plan) -> list[dict[str, Any]]:
    """Switches of a SwitchRecipeHook, which count epochs from 1; later ones of one epoch win."""
    switches: dict[int, dict[str, Any]] = {}
    for item in sorted(schedule, key=lambda item: item['action_epoch']):
        epoch = plan.move(item['action_epoch'] - 1) + 1
        switches[epoch] = {**switches.get(epoch, {}), **item, 'action_epoch': epoch}
    return list(switches.values())


def _shorten_average(hook: dict[str, Any], plan: _Plan) -> None:
    """Let an average forget the weights before the fine-tuning as fast as it forgot the first."""
    average = dict(type=hook.get('ema_type', default_of(hook, 'ema_type', HOOKS)))
    momentum = hook.get('momentum', default_of(average, 'momentum', MODELS))
    if momentum is not None and momentum < MOST_MOMENTUM and plan.total < plan.original:
        longer = momentum * plan.original / plan.total
        hook['momentum'] = float(f'{min(longer, MOST_MOMENTUM):.3g}')
