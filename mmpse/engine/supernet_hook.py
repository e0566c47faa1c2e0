"""Training any OpenMMLab model as a supernet."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpse.evaluation.batches import copied
from mmpse.models import (
    EXECUTIONS,
    Distillation,
    SlimmableBN2d,
    StageWiseClassifier,
    backbone_costs,
    find_backbone,
)
from mmpse.openmmlab import compat
from mmpse.registry import HOOKS, TASK_UTILS
from mmpse.space import Subnet

from .checkpoint import CHECKPOINT_KEY, mark_untracked, supernet_state
from .cudnn import stop_tuning
from .execution import measure_executions
from .loss_record import LossRecord
from .subnet_losses import SubnetLosses

IN_A_ROW = 10  # losses that are not finite, before a training in float16 stops


@HOOKS.register_module()
class SupernetHook(Hook):
    """Training of a supernet, through the model's slimmable backbone.

    In every iteration the hook draws ``n`` subnets, activates them, and records their losses, for
    the prior of the search. By default they share the batch (PSE-Net): image ``i`` runs through
    subnet ``i % n``, in one forward and one backward. With ``serial=True`` each runs on the whole
    batch, one after the other. Sources: PSE-Net (arXiv 2408.16233); for the other ways, which take
    ``sampler=dict(type='mmpse.UniformSampler')``, US-Nets (1903.05134), AutoSlim (1903.11728) and
    SPOS (1904.00420):

    * sandwich rule (AutoSlim, US-Nets): ``n=4, serial=True, distillation=dict()``
    * single path (SPOS): ``n=1, fullnet=False, tinynet=False``

    A :class:`mmpse.models.StageWiseClassifier` trains them stage by stage; its fullnet runs anyway,
    so that ``fullnet=False`` leaves the groups to the others.

    What iteration ``i`` draws (subnets, and the random numbers of the process: augmentation,
    dropout) depends on the runner's seed, the rank and ``i`` alone, so that a run that was killed
    and resumed ends with the same weights. Worker processes draw alike in an epoch-based training
    whose dataloader has ``persistent_workers=False``; in an iteration-based one they start anew
    where it is resumed, and augment otherwise than without the interruption.

    Args:
        n: Subnets per iteration. Unless ``serial``, it must divide the batch size of each process.
        fullnet: Whether the first one is always the fullnet.
        tinynet: Whether the next one is always the tinynet.
        sampler: Draws the other subnets: ``mmpse.SpreadSampler``, ``mmpse.UniformSampler`` or
            ``mmpse.RatioSampler``.
        serial: Whether the subnets run one after the other. The gradients of a step are their
            mean, by gradient accumulation: set ``optim_wrapper.accumulative_counts`` to ``n`` (or
            a multiple, to accumulate over iterations too).
        distillation: Arguments of :class:`mmpse.models.Distillation`; ``None`` is none. A fullnet
            that is its own teacher learns from the labels alone.
        execution: ``'sliced'``, ``'masked'`` (see :meth:`SlimmableBackbone.activate`), or
            ``'auto'``: whichever a few steps before the first iteration show to be faster, and to
            fit into memory. They give the same gradients to rounding; name one for runs that must
            repeat bit by bit.
        record_size: Losses kept for the prior; the oldest go first.

    Raises:
        ValueError: Before the first iteration, if the model has no slimmable backbone, if the
            config validates, if ``n`` does not divide every batch, if the processes would run
            different numbers of batches, or if arguments are not allowed or do not fit each other.
            Later, if a batch is empty.
        FloatingPointError: If a subnet's loss is not finite (of float16 with a gradient scaler, ten
            times in a row); the subnet is named.
        MemoryError: With ``'auto'``, if no execution fits into memory.
    """

    def __init__(
        self,
        n: int = 4,
        fullnet: bool = True,
        tinynet: bool = True,
        sampler: Mapping[str, Any] = dict(type='mmpse.SpreadSampler'),
        serial: bool = False,
        distillation: Mapping[str, Any] | None = None,
        execution: str = 'auto',
        record_size: int = 50_000,
    ) -> None:
        if not isinstance(n, int) or n < 1:
            raise ValueError(f'n must be a positive whole number of subnets, got {n!r}')
        if fullnet + tinynet > n:
            raise ValueError(
                f'n={n} subnets cannot hold fullnet={fullnet} and tinynet={tinynet}; choose a '
                'larger n or switch one off'
            )
        if execution not in ('auto', *EXECUTIONS):
            raise ValueError(f'execution must be one of {("auto", *EXECUTIONS)}, got {execution!r}')
        self.n = n
        self.fullnet = fullnet
        self.tinynet = tinynet
        self.sampler_cfg = dict(sampler)
        self.serial = serial
        self.distillation = None if distillation is None else Distillation(**distillation)
        in_place = self.distillation is not None and self.distillation.teacher is None
        if in_place and serial and not fullnet:
            raise ValueError(
                'in-place distillation of serial subnets takes the scores of the fullnet among '
                'them; set fullnet=True or give distillation.teacher'
            )
        self.execution = execution
        self.record = LossRecord(record_size)

    # Before the first iteration

    def before_train(self, runner: Runner) -> None:
        self._invalid = 0  # iterations in a row with a loss that is not finite
        self.model = getattr(runner.model, 'module', runner.model)
        self.backbone = find_backbone(self.model)
        space = self.backbone.search_space
        self._check_batches(runner)
        self._check_validation(runner)
        self.stage_wise = isinstance(self.model, StageWiseClassifier)
        if self.stage_wise and (self.serial or self.distillation is not None):
            raise ValueError(
                'subnets of a StageWiseClassifier share each batch, and the fullnet teaches them; '
                'set serial=False and distillation=None'
            )
        if self.serial:
            self._accumulate(runner)
        if self.execution != 'masked':  # whose shapes stay
            stop_tuning(runner, 'every step has other widths')
        mark_untracked(m for m in self.model.modules() if isinstance(m, SlimmableBN2d))
        self.sampler = TASK_UTILS.build(
            dict(self.sampler_cfg, space=space, cost=backbone_costs(self.backbone)['flops'])
        )
        self.losses = SubnetLosses(
            self.model, self.backbone, self.distillation, self.serial, self.fullnet
        )
        if not self.losses.of_classifier:
            runner.logger.info(
                f'SupernetHook: {type(self.model).__name__} has no head.loss_module to split its '
                "loss by subnet with; a search's prior will rest on the cost alone."
            )
        how = 'one after the other on every batch' if self.serial else 'sharing every batch'
        runner.logger.info(
            f'SupernetHook: {self.n} subnets {how} ({self.execution}), fullnet={self.fullnet}, '
            f'tinynet={self.tinynet}, space of {len(space)} units and {space.size:.3g} subnets.'
        )

    def after_train(self, runner: Runner) -> None:
        self.losses.close()

    def _check_batches(self, runner: Runner) -> None:
        batches = runner.train_dataloader.batch_sampler  # DataLoader's own, or the config's
        batch_size = getattr(batches, 'batch_size', None)
        sampler = getattr(batches, 'sampler', None)
        drop_last = getattr(batches, 'drop_last', False)
        infinite = isinstance(sampler, InfiniteSampler)
        if not infinite and dist.get_world_size() > 1:
            counts = dist.all_gather_object(len(runner.train_dataloader))
            if len(set(counts)) > 1:
                raise ValueError(
                    f'SupernetHook: the processes would run {counts} batches, and those that run '
                    'more would wait for ever; set train_dataloader.sampler.round_up=True'
                )
        if batch_size is None or sampler is None or self.serial:
            return  # batches of a sampler's own making: checked one by one, by the backbone
        sizes = {batch_size}
        if not drop_last and not infinite:
            sizes.add(len(sampler) % batch_size or batch_size)
        for size in sizes:
            if size % self.n:
                raise ValueError(
                    f'SupernetHook: n={self.n} subnets cannot share a batch of {size} images '
                    f'(batch size {batch_size}, drop_last={drop_last}); set '
                    'train_dataloader.batch_size to a multiple of n and '
                    'train_dataloader.drop_last=True (of a batch_sampler: '
                    'train_dataloader.batch_sampler.drop_last)'
                )

    def _check_validation(self, runner: Runner) -> None:
        norms = any(layer.norm for layer in self.backbone.layers_of_units)
        if norms and runner.val_loop is not None:
            raise ValueError(
                'SupernetHook: the config validates, but a supernet has no BatchNorm statistics '
                'to be tested with, so that the metrics would mean nothing; set '
                'val_cfg=val_dataloader=val_evaluator=None. A search judges subnets'
            )

    def _accumulate(self, runner: Runner) -> None:
        """Count a pass of a subnet as a step of gradient accumulation."""
        counts = compat.accumulative_counts(runner.optim_wrapper)
        if counts % self.n:
            raise ValueError(
                f'SupernetHook: serial=True accumulates the gradients of n={self.n} subnets before '
                f'each update; set optim_wrapper.accumulative_counts={self.n} (got {counts})'
            )
        runner.optim_wrapper.initialize_count_status(
            runner.model, runner.iter * self.n, runner.max_iters * self.n
        )

    # Every iteration

    def before_train_epoch(self, runner: Runner) -> None:
        self._seed(runner, runner.iter)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._images = count_images(data_batch)
        if not self._images:
            raise ValueError(
                f'SupernetHook: the batch of rank {dist.get_rank()} in iteration {runner.iter} is '
                'empty; check its dataset and sampler'
            )
        self.subnets = self._draw(runner, dist.get_rank(), runner.iter)
        if self.execution == 'auto':
            self._choose_execution(runner, data_batch)
        self.losses.begin()
        passes = self._passes(self.subnets)
        for subnets in passes[:-1]:
            self.backbone.activate(subnets, self.execution)
            self._seed(runner, runner.iter)  # every subnet gets the same augmentation
            # a copy, since data preprocessors write into the samples
            runner.model.train_step(copied(data_batch), optim_wrapper=runner.optim_wrapper)
        # here too: loading the first batch after a resume draws otherwise, and dropout follows it
        self._seed(runner, runner.iter)
        self.backbone.activate(passes[-1], self.execution)  # the runner's own step runs it

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        self.backbone.deactivate()
        losses = self.model.subnet_losses if self.stage_wise else self.losses.of_subnets()
        if losses is not None:
            self._record_losses(runner, losses)
        self._log_speed(runner)
        self._seed(runner, runner.iter + 1)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._seed(runner, runner.iter)

    def _passes(self, widths: np.ndarray) -> list[list[Subnet]]:
        """The subnets of each forward of an iteration."""
        subnets = [self.backbone.search_space.subnet(row) for row in widths]
        return [[subnet] for subnet in subnets] if self.serial else [subnets]

    def _draw(self, runner: Runner, rank: int, iteration: int) -> np.ndarray:
        """Subnets of one process in an iteration, widths ``(n, units)``."""
        space = self.backbone.search_space
        fixed = [space.fullnet] * self.fullnet + [space.tinynet] * self.tinynet
        rng = np.random.default_rng([runner.seed, rank, iteration])
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

    def _choose_execution(self, runner: Runner, data_batch: Any) -> None:
        """Time a few steps; all processes take what is faster in the slowest of them."""
        if runner.cfg.get('compile'):
            self.execution = 'masked'  # its shapes do not change with the subnets
            runner.logger.info("SupernetHook: execution='masked', since the model is compiled.")
            return
        self.losses.begin()
        draws = [
            subnets
            for step in range(4)
            for subnets in self._passes(self._draw(runner, dist.get_rank(), runner.iter + step))
        ]
        seconds = measure_executions(self.model, runner.optim_wrapper, data_batch, draws)
        everywhere = dist.all_gather_object(seconds)
        seconds = {name: max(of_rank[name] for of_rank in everywhere) for name in seconds}
        self.execution = min(seconds, key=seconds.get)
        if seconds[self.execution] == math.inf:
            raise MemoryError(
                f'SupernetHook: a step of n={self.n} subnets with {self._images} images does not '
                'fit into memory in any execution; choose a smaller train_dataloader.batch_size'
            )
        shown = ', '.join(
            f'{name} {"out of memory" if value == math.inf else f"{value:.3f} s"}'
            for name, value in seconds.items()
        )
        runner.logger.info(f"SupernetHook: execution='{self.execution}' ({shown} per pass).")

    @torch.no_grad()
    def _record_losses(self, runner: Runner, losses: torch.Tensor) -> None:
        """Record and log the losses of this process's subnets, ``(n,)``, and the others'."""
        fixed = self.fullnet + self.tinynet
        names = ['fullnet'] * self.fullnet + ['tinynet'] * self.tinynet
        of_ranks = torch.stack(dist.all_gather(losses)).cpu().numpy()
        subnets = [self._draw(runner, rank, runner.iter) for rank in range(len(of_ranks))]
        finite = np.isfinite(of_ranks)
        self._invalid = 0 if finite.all() else self._invalid + 1
        # a gradient scaler leaves out a step that overflows, and scales the next one less
        if self._invalid >= (IN_A_ROW if hasattr(runner.optim_wrapper, 'loss_scaler') else 1):
            rank, k = np.argwhere(~finite)[0]
            again = f', the {self._invalid}th in a row,' if self._invalid > 1 else ''
            raise FloatingPointError(
                f'the loss of a subnet is {of_ranks[rank, k]} in iteration {runner.iter}{again}: '
                f'{self.backbone.search_space.subnet(subnets[rank][k])}; lower the learning rate '
                'or clip gradients (optim_wrapper.clip_grad)'
            )
        for drawn, of_rank, known in zip(subnets, of_ranks, finite, strict=True):
            known[:fixed] = False
            self.record.extend(runner.iter, drawn[known], of_rank[known].tolist())
        scalars = dict(zip(names, losses.tolist(), strict=False))
        if fixed < self.n:
            scalars['sampled'] = losses[fixed:].mean().item()
        for name, value in scalars.items():
            if math.isfinite(value):
                runner.message_hub.update_scalar(f'train/loss_{name}', value)

    def _log_speed(self, runner: Runner) -> None:
        times = runner.message_hub.log_scalars.get('train/time')  # of MMEngine's IterTimerHook
        if times is None:
            return
        images = self._images * dist.get_world_size() / times.current()
        runner.message_hub.update_scalar('train/images_per_s', images)
        subnet_images = images * (self.n if self.serial else 1)
        runner.message_hub.update_scalar('train/subnet_images_per_s', subnet_images)

    # The checkpoint

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['meta'][CHECKPOINT_KEY] = dict(
            space=self.backbone.search_space.backbone,
            record=self.record.state_dict(),
            execution=self.execution,
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state = supernet_state(checkpoint)
        if compat.is_resuming(runner) and state is not None:
            self.record.load_state_dict(state['record'])
            if self.execution == 'auto':
                self.execution = state['execution']


def count_images(data_batch: Any) -> int:
    """Images in a batch as a dataloader gives it."""
    return len(data_batch['inputs'] if isinstance(data_batch, Mapping) else data_batch[0])
