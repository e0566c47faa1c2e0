"""Training any OpenMMLab model as a supernet."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.runner import Runner

from mmpse.errors import UserError
from mmpse.openmmlab import compat
from mmpse.openmmlab.checkpoints.supernet import CHECKPOINT_KEY, mark_untracked, supernet_state
from mmpse.openmmlab.configs.datasets import folds_of
from mmpse.openmmlab.jobs import model_of
from mmpse.openmmlab.models.batches import copied
from mmpse.openmmlab.seeding import SeedHook, seed_iteration
from mmpse.openmmlab.teaching.distillation import Distillation
from mmpse.openmmlab.teaching.hook import Teaching
from mmpse.openmmlab.types import find_type
from mmpse.registry import HOOKS, TASK_UTILS
from mmpse.search.around import BudgetSampler
from mmpse.slim import EXECUTIONS
from mmpse.space import Subnet

from .building import find_supernet, supernet_content
from .checks import accumulate, check_batches, check_no_validation
from .drawing import Drawing
from .execution import count_images, fastest_execution
from .groups import GroupLosses
from .losses import SubnetLosses
from .record import LossRecord
from .speed import stop_tuning

IN_A_ROW = 10  # losses that are not finite, before a training in float16 stops


@HOOKS.register_module()
class SupernetHook(SeedHook):
    """Training of any model as a supernet.

    The width units of the whole model are found before the first iteration (:mod:`mmpse.slim`), and
    its classes, names and parameters stay. Every subnet is normalised by its own images: BatchNorms
    that the model keeps in evaluation (``norm_eval``, ``frozen_stages``) train too, since the full
    network's statistics are wrong for others, and synchronised ones become plain.

    In every iteration the hook draws ``n`` subnets, activates them, and records their losses, for
    the prior of the search. By default they share the batch (PSE-Net, arXiv 2408.16233): image
    ``i`` runs through subnet ``i % n``, in one forward and one backward. docs/training.md has the
    settings of the sandwich rule (US-Nets, 1903.05134; AutoSlim, 1903.11728) and of the single path
    (SPOS, 1904.00420). A :class:`mmpse.StageWiseClassifier` trains the subnets stage by stage; its
    fullnet runs anyway, so that ``fullnet=False`` leaves the groups to the others.

    What iteration ``i`` draws (subnets, and random numbers, see :class:`SeedHook`) depends on the
    runner's seed, the rank and ``i``, and at most on the losses before it, so that a run that was
    killed and resumed ends with the same weights.

    Args:
        n: Subnets per iteration. Unless ``serial``, it must divide the batch size of each process.
        fullnet: Whether the first one is always the fullnet.
        tinynet: Whether the next one is always the tinynet.
        sampler: Draws the other subnets: ``mmpse.SpreadSampler``, ``mmpse.UniformSampler``,
            ``mmpse.RatioSampler`` or ``mmpse.BudgetSampler``.
        serial: Whether the subnets run one after the other. The gradients of a step are their
            mean, by gradient accumulation: set ``optim_wrapper.accumulative_counts`` to ``n`` (or
            a multiple, to accumulate over iterations too).
        distillation: Arguments of :class:`mmpse.openmmlab.teaching.distillation.Distillation`;
            ``None`` is none. A fullnet that is its own teacher learns from the labels alone.
        execution: ``'sliced'``, ``'masked'`` (see :meth:`mmpse.slim.Supernet.activate`), or
            ``'auto'``: whichever a few steps before the first iteration show to be faster, and to
            fit into memory. They give the same gradients to rounding; name one for runs that must
            repeat bit by bit.
        teacher: Arguments of :class:`mmpse.DistillationHook`: subnets of any model learn from a
            frozen one too, whose distance from each is recorded in the place of the label loss, in
            iterations with a teacher. Label losses of other models than classifiers are recorded
            in every second iteration, see :class:`GroupLosses`.
        ratios, divisor, grids: Widths of the units, see :class:`mmpse.space.SearchSpace`.
        input_shape: ``(C, H, W)`` of the image that FLOPs are counted for; by
            default that of the config's tests.

    Raises:
        UserError: Before the first iteration, if nothing of the model can be pruned, the config
            validates, ``n`` does not divide every batch, the processes would run different numbers
            of batches, or arguments do not fit each other. Later, if a batch is empty.
        FloatingPointError: If a subnet's loss is not finite, in a classifier or with a teacher (of
            float16 with a gradient scaler, ten times in a row); the subnet is named.
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
        teacher: Mapping[str, Any] | None = None,
        ratios: Sequence[float] | None = None,
        divisor: int | None = None,
        grids: Mapping[str, Mapping[str, Any]] | None = None,
        input_shape: Sequence[int] | None = None,
    ) -> None:
        if not isinstance(n, int) or n < 1:
            raise UserError(f'n must be a positive whole number of subnets, got {n!r}')
        if fullnet + tinynet > n:
            raise UserError(
                f'n={n} subnets cannot hold fullnet={fullnet} and tinynet={tinynet}; choose a '
                'larger n or switch one off'
            )
        if execution not in ('auto', *EXECUTIONS):
            raise UserError(f'execution must be one of {("auto", *EXECUTIONS)}, got {execution!r}')
        self.n = n
        self.fullnet = fullnet
        self.tinynet = tinynet
        self.sampler_cfg = dict(sampler)
        self.serial = serial
        self.distillation = None if distillation is None else Distillation(**distillation)
        in_place = self.distillation is not None and self.distillation.teacher is None
        if in_place and serial and not fullnet:
            raise UserError(
                'in-place distillation of serial subnets takes the scores of the fullnet among '
                'them; set fullnet=True or give distillation.teacher'
            )
        if teacher is not None and (serial or distillation is not None):
            raise UserError(
                'a teacher joins the losses of subnets that share a batch; set serial=False and '
                'distillation=None'
            )
        self.execution = execution
        self.record = LossRecord()
        self._resumed: Mapping[str, Any] | None = None  # how the training drew that goes on
        self.teacher_cfg = None if teacher is None else dict(teacher)
        grid = dict(ratios=ratios, divisor=divisor, grids=grids)
        self.grid = {key: value for key, value in grid.items() if value is not None}
        self.input_shape = input_shape

    # Before the first iteration

    def before_train(self, runner: Runner) -> None:
        self._invalid = 0  # iterations in a row with a loss that is not finite
        self.model = model_of(runner)
        # a StageWiseClassifier, whose room is above this one: it measures its subnets itself
        self.stage_wise = hasattr(self.model, 'subnet_losses')
        self.supernet, costs = find_supernet(
            self.model,
            runner.cfg,
            self.grid,
            self.input_shape,
            self.execution,
            self.model.stages.parts if self.stage_wise else None,
            shared=not self.serial and self.n > 1,
        )
        if self.stage_wise:
            self.model.supernet = self.supernet
        space = self.supernet.space
        check_batches(runner, self.n, self.serial)
        if self.supernet.norms:
            check_no_validation(runner)
        alone = self.serial or self.distillation is not None or self.teacher_cfg is not None
        if self.stage_wise and alone:
            raise UserError(
                'subnets of a StageWiseClassifier share each batch, and the fullnet teaches them; '
                'set serial=False, distillation=None and teacher=None'
            )
        if self.serial:
            accumulate(runner, self.n)
        if self.execution != 'masked':  # whose shapes stay
            stop_tuning(runner, 'every step has other widths')
        mark_untracked(self.supernet.norms)
        of_budget = issubclass(find_type(self.sampler_cfg, TASK_UTILS), BudgetSampler)
        cost = dict(costs=costs) if of_budget else dict(cost=costs['flops'])
        sampler = TASK_UTILS.build(dict(self.sampler_cfg, space=space, **cost))
        fixed = self.fullnet, self.tinynet
        self.drawing = Drawing(space, sampler, self.n, *fixed, runner.seed, self._resumed)
        settings = self.distillation, self.n, self.serial, self.fullnet
        self.losses = SubnetLosses(self.model, self.supernet, *settings)
        self.teaching = None
        self.groups = None
        if self.teacher_cfg is not None:
            self.teaching = Teaching('SupernetHook', self.model, **self.teacher_cfg)
        elif not self.losses.of_classifier and not self.stage_wise:
            self.groups = GroupLosses(self.model, self.supernet)
        self._listening = ExitStack()
        how = 'one after the other on every batch' if self.serial else 'sharing every batch'
        runner.logger.info(
            f'SupernetHook: {self.n} subnets {how} ({self.execution}), fullnet={self.fullnet}, '
            f'tinynet={self.tinynet}, space of {len(space)} units and {space.size:.3g} subnets.'
        )

    def after_train(self, runner: Runner) -> None:
        self.losses.close()
        self.teaching = None

    # Every iteration

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._images = count_images(data_batch)
        if not self._images:
            raise UserError(
                f'SupernetHook: the batch of rank {dist.get_rank()} in iteration {runner.iter} is '
                'empty; check its dataset and sampler'
            )
        for norm in self.supernet.norms:
            norm.train()
        self.drawing.narrow(runner.iter, runner.max_iters, self.record)
        self.subnets = self.drawing.rows(dist.get_rank(), runner.iter)
        if self.execution == 'auto':
            steps = [
                subnets
                for step in range(4)
                for subnets in self._passes(self.drawing.rows(dist.get_rank(), runner.iter + step))
            ]
            self.losses.begin()
            self.execution = fastest_execution(runner, self.supernet, data_batch, steps)
        self.losses.begin()
        if self.groups is not None:
            self.groups.begin()
        passes = self._passes(self.subnets)
        for subnets in passes[:-1]:
            self._activate(subnets, runner.iter)
            seed_iteration(runner.seed, runner.iter)  # every subnet gets the same augmentation
            # a copy, since data preprocessors write into the samples
            runner.model.train_step(copied(data_batch), optim_wrapper=runner.optim_wrapper)
        # here too: loading the first batch after a resume draws otherwise, and dropout follows it
        seed_iteration(runner.seed, runner.iter)
        self._activate(passes[-1], runner.iter)  # the runner's own step runs it
        if self.teaching is not None:
            self._listening.enter_context(self.teaching.joining(runner.iter, self.n))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        self._listening.close()
        self.supernet.check_ran()
        self.supernet.deactivate()
        losses = self._subnet_losses()
        if losses is not None:
            self._record_losses(runner, losses)
        self._log_speed(runner)
        super().after_train_iter(runner, batch_idx, data_batch, outputs)

    def _passes(self, widths: np.ndarray) -> list[list[Subnet]]:
        """The subnets of each forward of an iteration."""
        subnets = [self.supernet.space.subnet(row) for row in widths]
        return [[subnet] for subnet in subnets] if self.serial else [subnets]

    def _activate(self, subnets: Sequence[Subnet], iteration: int) -> None:
        """Let subnets run, and listen to what their parts put out."""
        self._listening.close()
        self.supernet.activate(subnets, self.execution)
        if self.groups is not None:
            self._listening.enter_context(self.groups.listening(iteration))

    def _subnet_losses(self) -> torch.Tensor | None:
        """What the subnets of the iteration lost, ``(n,)``, where it is known."""
        if self.stage_wise:
            return self.model.subnet_losses
        if self.teaching is not None:
            return self.teaching.of_groups
        return (self.groups or self.losses).of_subnets()

    @torch.no_grad()
    def _record_losses(self, runner: Runner, losses: torch.Tensor) -> None:
        """Record and log the losses of this process's subnets, ``(n,)``, and the others'."""
        fixed = len(self.drawing.fixed)
        of_ranks = torch.stack(dist.all_gather(losses)).cpu().numpy()
        subnets = [self.drawing.rows(rank, runner.iter) for rank in range(len(of_ranks))]
        finite = np.isfinite(of_ranks)
        # of groups alone the loss of any model may fail where that of the batch does not
        self._invalid = 0 if self.groups is not None or finite.all() else self._invalid + 1
        # a gradient scaler leaves out a step that overflows, and scales the next one less
        if self._invalid >= (IN_A_ROW if hasattr(runner.optim_wrapper, 'loss_scaler') else 1):
            rank, k = np.argwhere(~finite)[0]
            again = f', the {self._invalid}th in a row,' if self._invalid > 1 else ''
            raise FloatingPointError(
                f'the loss of a subnet is {of_ranks[rank, k]} in iteration {runner.iter}{again}: '
                f'{self.supernet.space.subnet(subnets[rank][k])}; lower the learning rate '
                'or clip gradients (optim_wrapper.clip_grad)'
            )
        for drawn, of_rank, known in zip(subnets, of_ranks, finite, strict=True):
            known[:fixed] = False
            self.record.extend(runner.iter, drawn[known], of_rank[known].tolist())
        scalars = dict(zip(self.drawing.fixed, losses.tolist(), strict=False))
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
            **supernet_content(self.supernet),
            record=self.record.state_dict(),
            drawing=self.drawing.state(),
            held_out=folds_of(runner.cfg.get('train_dataloader', {}).get('dataset', {})),
            execution=self.execution,
            taught=self.teacher_cfg is not None,
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state = supernet_state(checkpoint)
        if compat.is_resuming(runner) and state is not None:
            taught = self.teacher_cfg is not None
            if state.get('taught', taught) != taught:
                raise UserError(
                    f'SupernetHook: this training has {"a" if taught else "no"} teacher, the one '
                    f'that it goes on with had {"none" if taught else "one"}, so that distances '
                    'from a teacher and losses would be one record; resume with the same teacher, '
                    'or start anew (load_from without resume)'
                )
            self.record.load_state_dict(state['record'])
            self._resumed = state.get('drawing')  # older checkpoints have none
            if self.execution == 'auto':
                self.execution = state['execution']
