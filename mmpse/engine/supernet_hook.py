"""Training any OpenMMLab model as a supernet."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmpse.models import EXECUTIONS, backbone_costs, find_backbone
from mmpse.registry import HOOKS, TASK_UTILS

from .loss_record import LossRecord

CHECKPOINT_KEY = 'mmpse_supernet'


@HOOKS.register_module()
class SupernetHook(Hook):
    """Parallel-subnets training (PSE-Net, METHOD section 1).

    Every batch of every process is shared by ``n`` subnets of the model's slimmable backbone: image
    ``i`` runs through subnet ``i % n``. The hook draws the subnets before each iteration, activates
    them, and records their losses after it, for the prior of the search.

    What iteration ``i`` draws (subnets, and the random numbers of the process: augmentation,
    dropout) depends on the runner's seed, the rank and ``i`` alone, so that a run that was killed
    and resumed ends with the same weights. Worker processes draw alike as long as the dataloader
    has ``persistent_workers=False``.

    Args:
        n: Subnets (groups) per batch. It must divide the batch size of each process.
        fullnet: Whether group 0 is always the fullnet.
        tinynet: Whether the next group is always the tinynet.
        sampler: Draws the other subnets: ``mmpse.SpreadSampler`` or ``mmpse.UniformSampler``.
        execution: ``'sliced'`` or ``'masked'``; see :meth:`SlimmableBackbone.activate`.
        record_size: Losses kept for the prior; the oldest go first.

    Raises:
        ValueError: Before the first iteration, if the model has no slimmable backbone, if ``n``
            does not divide every batch, or if an argument is not one of those allowed.
        FloatingPointError: If a subnet's loss is not finite; the subnet is named.
    """

    def __init__(
        self,
        n: int = 4,
        fullnet: bool = True,
        tinynet: bool = True,
        sampler: Mapping[str, Any] = dict(type='mmpse.SpreadSampler'),
        execution: str = 'sliced',
        record_size: int = 50_000,
    ) -> None:
        if not isinstance(n, int) or n < 1:
            raise ValueError(f'n must be a positive whole number of subnets, got {n!r}')
        if fullnet + tinynet > n:
            raise ValueError(
                f'n={n} subnets cannot hold fullnet={fullnet} and tinynet={tinynet}; choose a '
                'larger n or switch one off'
            )
        if execution not in EXECUTIONS:
            raise ValueError(f'execution must be one of {EXECUTIONS}, got {execution!r}')
        self.n = n
        self.fullnet = fullnet
        self.tinynet = tinynet
        self.sampler_cfg = dict(sampler)
        self.execution = execution
        self.record = LossRecord(record_size)
        self._loss_call: tuple[tuple, dict] | None = None

    # Before the first iteration

    def before_train(self, runner: Runner) -> None:
        self.backbone = find_backbone(runner.model)
        space = self.backbone.search_space
        self._check_batches(runner)
        self.sampler = TASK_UTILS.build(
            dict(self.sampler_cfg, space=space, cost=backbone_costs(self.backbone)['flops'])
        )
        self.loss_module = find_loss_module(runner.model)
        if self.loss_module is None:
            runner.logger.info(
                f'SupernetHook: {type(runner.model).__name__} has no head.loss_module to split its '
                "loss by subnet with; a search's prior will rest on the cost alone."
            )
        else:
            self.loss_module.register_forward_pre_hook(self._keep_loss_call, with_kwargs=True)
        runner.logger.info(
            f'SupernetHook: {self.n} subnets per batch ({self.execution}), fullnet={self.fullnet}, '
            f'tinynet={self.tinynet}, space of {len(space)} units and {space.size:.3g} subnets.'
        )

    def _check_batches(self, runner: Runner) -> None:
        loader = runner.train_dataloader
        batch_size = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None)
        if batch_size is None:
            return  # batches of a sampler's own making: checked one by one, by the backbone
        sizes = {batch_size}
        if not loader.drop_last and not isinstance(loader.sampler, InfiniteSampler):
            sizes.add(len(loader.sampler) % batch_size or batch_size)
        for size in sizes:
            if size % self.n:
                raise ValueError(
                    f'SupernetHook: n={self.n} subnets cannot share a batch of {size} images '
                    f'(batch size {batch_size}, drop_last={loader.drop_last}); set '
                    'train_dataloader.batch_size to a multiple of n and '
                    'train_dataloader.drop_last=True'
                )

    # Every iteration

    def before_train_epoch(self, runner: Runner) -> None:
        self._seed(runner, runner.iter)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self.subnets = self._draw(runner, dist.get_rank())
        self.backbone.activate(
            [self.backbone.search_space.subnet(row) for row in self.subnets], self.execution
        )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        self.backbone.deactivate()
        if self._loss_call is not None:
            self._record_losses(runner)
        self._seed(runner, runner.iter + 1)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._seed(runner, runner.iter)

    def _draw(self, runner: Runner, rank: int) -> np.ndarray:
        """Subnets of one process in this iteration, widths ``(n, units)``."""
        space = self.backbone.search_space
        fixed = [space.fullnet] * self.fullnet + [space.tinynet] * self.tinynet
        rng = np.random.default_rng([runner.seed, rank, runner.iter])
        drawn = self.n - len(fixed)
        rows = [space.array([subnet]) for subnet in fixed]
        if drawn:
            rows.append(self.sampler.sample(rng, drawn))
        return np.concatenate(rows)

    @staticmethod
    def _seed(runner: Runner, iteration: int) -> None:
        """Make the random numbers of the coming iteration independent of what came before."""
        entropy = np.random.SeedSequence([runner.seed, dist.get_rank(), iteration])
        seed = int(entropy.generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    # The losses of the subnets

    def _keep_loss_call(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if module.training:
            self._loss_call = (args, kwargs)

    @torch.no_grad()
    def _record_losses(self, runner: Runner) -> None:
        (score, target, *_), kwargs = self._loss_call[0], dict(self._loss_call[1])
        self._loss_call = None
        kwargs.pop('avg_factor', None)
        self.loss_module.eval()  # so that these calls are not kept
        losses = torch.stack(
            [
                self.loss_module(score[g :: self.n], target[g :: self.n], **kwargs)
                for g in range(self.n)
            ]
        )
        self.loss_module.train()

        fixed = self.fullnet + self.tinynet
        names = ['fullnet'] * self.fullnet + ['tinynet'] * self.tinynet
        gathered = dist.all_gather(losses.float())
        for rank, of_rank in enumerate(gathered):
            subnets = self._draw(runner, rank)
            for widths, loss in zip(subnets, of_rank.tolist(), strict=True):
                if not np.isfinite(loss):
                    raise FloatingPointError(
                        f'the loss of a subnet is {loss} in iteration {runner.iter}: '
                        f'{self.backbone.search_space.subnet(widths)}; lower the learning rate or '
                        'clip gradients (optim_wrapper.clip_grad)'
                    )
            self.record.extend(runner.iter, subnets[fixed:], of_rank[fixed:].tolist())
        scalars = dict(zip(names, losses.tolist(), strict=False))
        if fixed < self.n:
            scalars['sampled'] = losses[fixed:].mean().item()
        for name, value in scalars.items():
            runner.message_hub.update_scalar(f'train/loss_{name}', value)

    # The checkpoint

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint[CHECKPOINT_KEY] = dict(
            space=self.backbone.search_space.backbone, record=self.record.state_dict()
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume and CHECKPOINT_KEY in checkpoint:
            self.record.load_state_dict(checkpoint[CHECKPOINT_KEY]['record'])


def find_loss_module(model: nn.Module) -> nn.Module | None:
    """The loss module of a classifier's head, called with scores and targets ``(B, ...)``."""
    model = getattr(model, 'module', model)
    return getattr(getattr(model, 'head', None), 'loss_module', None)
