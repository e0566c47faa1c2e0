"""Searching a trained supernet for the best subnet inside a budget."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.runner import BaseLoop, CheckpointLoader, Runner, set_random_seed
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.utils.data import DataLoader

from mmpse.models import costs_of, find_backbone, is_channels_last, model_costs
from mmpse.registry import LOOPS
from mmpse.space import Budget, PriorSampler, Subnet, expected_loss, nearest_uniform

from .archive import Archive, ArchiveError, Judged
from .checkpoint import check_weights, file_digest
from .judge import Judge, calibration_batches
from .loss_record import relative_losses
from .supernet_hook import CHECKPOINT_KEY

ROUNDS = 200  # batches of draws after which a generation is filled in another way


@LOOPS.register_module()
class EvolutionSearchLoop(BaseLoop):
    """Evolutionary search (METHOD section 3) as the ``train_cfg`` of a config.

    The config names the supernet's checkpoint in ``load_from``; its ``val_dataloader`` and
    ``val_evaluator`` judge the candidates, on a split that is held out of the training set. The
    first generation is drawn from the prior (METHOD section 2) that the checkpoint's loss record
    gives. Every judged subnet goes into ``work_dir/archive.db``; with ``--resume`` a killed search
    goes on from there to the same result. The winner is ``work_dir/best_subnet.json``.

    Args:
        runner: The runner.
        dataloader: The config's ``train_dataloader``; BatchNorm is recalibrated on its images.
        budget: One resource and its limit: ``dict(flops='300M')``, ``dict(flops='50%')``,
            ``dict(params=2e6)``. It counts the whole model, head included.
        input_shape: Shape ``(C, H, W)`` of one image, for counting FLOPs.
        metric: The score, a metric of the ``val_evaluator``; higher is better.
        window: Candidates cost ``(1 - window)`` to 1 times the limit.
        population: Subnets of a generation.
        generations: Number of generations.
        parents: Best subnets so far from which the next generation is made.
        mutants: Subnets of a generation that are mutated parents; the others are crossovers.
        mutation: Probability with which a unit of a mutant is drawn anew, from the prior.
        calibration: Training batches on which each candidate is recalibrated.
        sampler: What candidates are drawn by, see :class:`mmpse.space.PriorSampler`.

    Raises:
        BudgetError: At the start, if no subnet can meet the budget.
        ValueError: At the start, if ``load_from`` or the validation data is missing, or in more
            than one process.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        budget: Mapping[str, str | float],
        input_shape: Sequence[int],
        metric: str,
        window: float = 0.05,
        population: int = 50,
        generations: int = 20,
        parents: int = 10,
        mutants: int = 25,
        mutation: float = 0.1,
        calibration: int = 8,
        sampler: str = 'prior',
    ) -> None:
        super().__init__(runner, dataloader)
        if not 1 <= parents <= population or not 0 <= mutants <= population:
            raise ValueError(
                f'expected 1 <= parents <= population and 0 <= mutants <= population, got '
                f'parents={parents}, mutants={mutants}, population={population}'
            )
        if runner._load_from is None:
            raise ValueError(
                'a search needs the checkpoint of a trained supernet: set load_from, e.g. '
                '--cfg-options load_from=work_dirs/supernet/epoch_50.pth'
            )
        if runner.val_loop is None:
            raise ValueError(
                'a search judges subnets with val_dataloader, val_evaluator and val_cfg; the '
                'config has none'
            )
        if dist.get_world_size() > 1:
            raise ValueError(
                f'a search runs in one process so far, got {dist.get_world_size()}; start it with '
                'python tools/train.py, without a launcher'
            )
        self.input_shape = tuple(input_shape)
        self.metric = metric
        self.population = population
        self.generations = generations
        self.parents = parents
        self.mutants = mutants
        self.mutation = mutation
        self.calibration = calibration
        self.sampler = sampler
        self.seed = runner.seed
        # Resuming is the archive's affair; the runner's would restore the supernet's optimizer.
        self.resume, runner._resume = runner._resume, False
        self._epoch = self._iter = 0
        # before anything is loaded, so that an unreachable budget fails at once
        self.space = find_backbone(runner.model).search_space
        self.model_cfg = runner.cfg.model.to_dict()
        if runner.cfg.get('data_preprocessor') is not None:  # the runner hands it to the model
            self.model_cfg.setdefault('data_preprocessor', runner.cfg.data_preprocessor.to_dict())
        self.costs = model_costs(self.model_cfg, self.input_shape)
        self.budget = Budget(self.space, self.costs, budget, window)

    epoch = property(lambda self: self._epoch)
    iter = property(lambda self: self._iter)
    max_epochs = property(lambda self: 1)
    max_iters = property(lambda self: self.population * self.generations)

    def run(self) -> Subnet:
        """Search; returns the best subnet."""
        runner, logger = self.runner, self.runner.logger
        work_dir = Path(runner.work_dir)
        checkpoint = CheckpointLoader.load_checkpoint(runner._load_from, map_location='cpu')
        weights = checkpoint['state_dict']
        check_weights(runner.model, weights, runner._load_from)
        self.identity = self._identity()
        archive = self._open_archive(work_dir / 'archive.db')

        prior = PriorSampler(self.space, self.budget, self._energy(checkpoint), self.sampler)
        # so that the calibration images do not depend on what was drawn before
        set_random_seed(self.seed)
        judge = Judge(
            self.model_cfg,
            weights,
            calibration_batches(self.dataloader, self.calibration),
            runner.val_loop.dataloader,
            runner.val_loop.evaluator,
            self.metric,
            memory_format_of(runner.model),
        )
        self._announce(logger, len(archive))

        history: dict[tuple[int, ...], float] = {}
        started, new = time.monotonic(), 0
        with search_progress(self.max_iters) as advance:
            for generation in range(self.generations):
                rng = np.random.default_rng([self.seed, generation])
                candidates = self._propose(rng, prior, history)
                if not candidates:
                    logger.info('every subnet inside the budget that could be found is judged.')
                    break
                for origin, widths in candidates:
                    score = archive.get(widths)
                    if score is None:
                        subnet = self.space.subnet(widths)
                        score, new = judge(subnet), new + 1
                        resources = costs_of(self.space, self.costs, subnet)
                        archive.add(Judged(generation, origin, widths, score, resources))
                    history[widths] = score
                    advance(f'generation {generation + 1}, best {max(history.values()):.4f}')
                best = self._best(history)
                best.save(work_dir / 'best_subnet.json')
                scores = [history[widths] for _, widths in candidates]
                seconds = (time.monotonic() - started) / max(new, 1)
                remaining = seconds * (self.max_iters - len(history))
                logger.info(
                    f'generation {generation + 1}/{self.generations}: {len(history)} judged, '
                    f'{self.metric} best {max(history.values()):.4f}, mean of the generation '
                    f'{np.mean(scores):.4f}, {prior.trials / max(prior.accepted, 1):.1f} trials '
                    f'per valid draw, {seconds:.2f} s a subnet, '
                    f'ETA {datetime.timedelta(seconds=round(remaining))}'
                )
        logger.info(
            f'best subnet: {self.metric} {best.source["score"]:.4f}, {best.resources} -> '
            f'{work_dir / "best_subnet.json"}'
        )
        return best

    def _identity(self) -> dict[str, Any]:
        """What scores depend on, and so an archive is bound to; the budget is not among it."""
        return dict(
            space=self.space.backbone,
            checkpoint_sha256=file_digest(self.runner._load_from),
            metric=self.metric,
            calibration=self.calibration,
            seed=self.seed,
            dataset=self.runner.cfg.val_dataloader.dataset.to_dict(),
            input_shape=self.input_shape,
        )

    def _open_archive(self, path: Path) -> Archive:
        if path.exists() and not self.resume:
            raise ArchiveError(
                f'{path} holds the subnets of an earlier search; give --resume to go on with it, '
                'or choose another work_dir'
            )
        return Archive(path, self.identity)

    def _energy(self, checkpoint: Mapping[str, Any]) -> np.ndarray | None:
        state = checkpoint.get(CHECKPOINT_KEY)
        if state is None or not len(state['record']['loss']):
            self.runner.logger.warning(
                f'{self.runner._load_from} holds no losses of subnets (it was not trained with '
                'mmpse.SupernetHook): candidates are drawn by cost alone.'
            )
            return None
        return expected_loss(self.space, *relative_losses(state['record']))

    def _announce(self, logger: logging.Logger, judged: int) -> None:
        space = self.space
        ends = space.array([space.tinynet, space.fullnet])
        tiny, full = self.costs[self.budget.resource](ends)
        logger.info(
            f'search space: {len(space)} units, {space.size:.3g} subnets, {tiny:,} to {full:,} '
            f'{self.budget.resource}; budget {self.budget}; {self.max_iters} subnets to judge, '
            f'{judged} of them in the archive.'
        )

    def _propose(
        self,
        rng: np.random.Generator,
        prior: PriorSampler,
        history: Mapping[tuple[int, ...], float],
    ) -> list[tuple[str, tuple[int, ...]]]:
        """The next generation: ``(origin, widths)``, inside the budget, none judged before."""
        taken, generation = set(history), []

        def take(origin: str, rows: np.ndarray, count: int) -> int:
            for row in rows[self.budget.contains(rows)]:
                widths = tuple(map(int, row))
                if count and widths not in taken:
                    taken.add(widths)
                    generation.append((origin, widths))
                    count -= 1
            return count

        if not history:
            # uniform pruning is the choice to beat, so that it is judged as well
            uniform = nearest_uniform(self.space, self.budget.cost, self.budget.high, at_most=True)
            take('uniform', uniform[None], 1)
        else:
            ranked = sorted(history, key=lambda w: self._rank(w, history))[: self.parents]
            parents = np.array(ranked)
            crossovers = self.population - self.mutants
            for origin, count in (('mutation', self.mutants), ('crossover', crossovers)):
                for _ in range(ROUNDS):
                    if not count:
                        break
                    rows = parents[rng.integers(len(parents), size=64)]
                    if origin == 'mutation':
                        other = prior.distribution.sample(rng, len(rows))
                        swap = rng.random(rows.shape) < self.mutation
                    else:
                        other = parents[rng.integers(len(parents), size=64)]
                        swap = rng.random(rows.shape) < 0.5
                    count = take(origin, np.where(swap, other, rows), count)
        missing = self.population - len(generation)
        for _ in range(ROUNDS):
            if not missing:
                break
            missing = take('prior', prior.sample(rng, missing), missing)
        return generation

    def _rank(self, widths: tuple[int, ...], history: Mapping[tuple[int, ...], float]) -> tuple:
        """Sorting key, best first: by score; of equals, the one that uses more of the budget."""
        return (-history[widths], -int(self.budget.cost(np.array([widths]))[0]), widths)

    def _best(self, history: Mapping[tuple[int, ...], float]) -> Subnet:
        widths = min(history, key=lambda w: self._rank(w, history))
        subnet = self.space.subnet(widths)
        return self.space.subnet(
            widths,
            resources=dict(
                costs_of(self.space, self.costs, subnet), input_shape=list(self.input_shape)
            ),
            source=dict(
                config=self.runner.cfg.filename,
                checkpoint=str(self.runner._load_from),
                checkpoint_sha256=self.identity['checkpoint_sha256'],
                metric=self.metric,
                score=history[widths],
                seed=self.seed,
            ),
        )


def memory_format_of(model: nn.Module) -> torch.memory_format:
    """The layout of a model's weights: channels_last if those of one layer are."""
    weights = (p for p in model.parameters() if p.dim() == 4)
    return torch.channels_last if any(map(is_channels_last, weights)) else torch.contiguous_format


@contextmanager
def search_progress(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on the terminal; yields what advances it and says where the search is."""
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), transient=True) as progress:
        task = progress.add_task('search', total=total)
        yield lambda text: progress.update(task, advance=1, description=text)
