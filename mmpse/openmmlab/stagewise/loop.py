"""Stage-wise search (arXiv 2011.04908): stages one by one, joined under the budget."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.runner import Runner
from mmpretrain.models import ImageClassifier

from mmpse.models import find_backbone, split_stages
from mmpse.openmmlab import compat
from mmpse.openmmlab.search.archive import Archive, Judged
from mmpse.openmmlab.search.base import Candidate, SearchLoop
from mmpse.openmmlab.search.loops import within_limits
from mmpse.openmmlab.search.parallel import gather, on_main
from mmpse.openmmlab.search.progress import Clock, search_progress
from mmpse.registry import LOOPS
from mmpse.space import (
    BudgetError,
    Joined,
    SearchSpace,
    SpreadSampler,
    StageTable,
    TableCost,
    UniformSampler,
    join,
    split_cost,
)

from .judge import StageJudge

UNIFORM = 21  # uniform subnets among the candidates
SHARE = 8  # candidates of a stage that each process judges before they are written down
MUTATION = 0.2  # probability with which a unit of a mutant is drawn anew
MOST = 100_000  # joined subnets that are tried against further limits


@LOOPS.register_module()
class StageWiseSearchLoop(SearchLoop):
    """Search of the stages by their distance to the fullnet, then of the joined subnets.

    For every stage, candidates (boundary widths included) are drawn: the uniform ones, and others
    spread over what the stage can cost. They are judged by the distance of their output to the
    fullnet's on the first images of the held-out split; see :func:`mmpse.models.stage_errors`.
    Subnets and fullnet normalise by batch statistics there, as in training. The stages are then
    joined exactly: of all subnets made of judged candidates with equal widths at the boundaries,
    and within the budget, those of the least sum of distances. These are judged as by every other
    search, and the best of them wins; it may cost less than the window.

    Distances are kept in ``stages.db`` beside the archive, in the same format; a unit that is not
    of the stage has width 0 there, and the score is minus the distance. Any supernet can be
    searched, however it was trained.

    Args:
        stages: Names of the parts of each stage; ``None``: the backbone's own. See
            :func:`mmpse.models.split_stages`. They need not be those of the training.
        candidates: Candidates of a stage in each round; a stage that has fewer is tried out
            entirely.
        rounds: Rounds of candidates. Those of the first are drawn, those of the others are mutants
            of what the best joined subnets so far are made of.
        batches: Batches of the ``val_dataloader`` on which distances are taken. The fullnet's
            features in front of one stage and behind it are in memory at a time.
        joined: Joined subnets to judge.
        **kwargs: See :class:`SearchLoop`.

    Raises:
        ValueError: If the model is not a classifier, or the stages do not split its backbone.
    """

    def __init__(
        self,
        runner: Runner,
        *args,
        stages: Sequence[Sequence[str]] | None = None,
        candidates: int = 500,
        rounds: int = 2,
        batches: int = 2,
        joined: int = 20,
        **kwargs,
    ) -> None:
        for name, value, least in (
            ('candidates', candidates, UNIFORM),
            ('rounds', rounds, 1),
            ('batches', batches, 1),
            ('joined', joined, 1),
        ):
            if not isinstance(value, int) or value < least:
                raise ValueError(f'{name} must be a whole number from {least} on, got {value!r}')
        self.model = getattr(runner.model, 'module', runner.model)
        if not isinstance(self.model, ImageClassifier):
            raise ValueError(
                'a stage-wise search compares the scores of classifiers, got '
                f'{type(self.model).__name__}; search this model with mmpse.EvolutionSearchLoop'
            )
        self.stages = split_stages(find_backbone(self.model), stages)
        self.candidates = candidates
        self.rounds = rounds
        self.batches = batches
        self.joined = joined
        self._proposed: list[Candidate] = []
        super().__init__(runner, *args, **kwargs)

    @property
    def max_iters(self) -> int:
        return self.joined

    def within(self, widths: np.ndarray) -> np.ndarray:
        return within_limits(self.budget, widths)

    def propose(self, generation: int) -> list[Candidate]:
        return [] if generation else self._proposed

    def prepare(self, checkpoint: Mapping[str, Any]) -> None:
        self.model.load_state_dict(checkpoint['state_dict'])
        names = [stage.units for stage in self.stages]
        spaces = [self.space.restricted_to(units) for units in names]
        costs = split_cost(self.space, self.budget.cost, names)
        uniform = [self.space.uniform(ratio) for ratio in np.linspace(0, 1, UNIFORM)]
        rows = [space.array(uniform) for space in spaces]
        joined: list[Joined] = []
        for round_ in range(self.rounds):
            for k, (space, cost) in enumerate(zip(spaces, costs)):
                rng = np.random.default_rng([self.seed, round_, k])
                parents = rows[k][sorted({subnet.rows[k] for subnet in joined})]
                rows[k] = more_candidates(
                    rows[k], self.candidates * (round_ + 1), space, cost, parents, rng
                )
            found = self._judge_stages(spaces, rows)
            tables = [
                StageTable(
                    inputs=column(space, stage.inputs, own),
                    outputs=column(space, stage.outputs, own),
                    cost=cost(own).astype(np.float64),
                    distance=distance,
                )
                for stage, space, cost, own, distance in zip(
                    self.stages, spaces, costs, rows, found
                )
            ]
            joined = self._join(spaces, rows, tables)

    def _join(
        self,
        spaces: Sequence[SearchSpace],
        rows: Sequence[np.ndarray],
        tables: Sequence[StageTable],
    ) -> list[Joined]:
        """The best joined subnets; they are proposed."""
        self._proposed, result = [], []
        for subnet in itertools.islice(join(tables, self.budget.high), MOST):
            widths = {
                name: width
                for space, own, row in zip(spaces, rows, subnet.rows)
                for name, width in zip(space.names, own[row].tolist())
            }
            widths = tuple(widths[name] for name in self.space.names)
            if self.within(np.array([widths]))[0]:
                result.append(subnet)
                self._proposed.append(('joined', widths))
            if len(result) == self.joined:
                break
        if not result:
            raise BudgetError(
                f'no joined subnet is within {self.budget}; judge more candidates of each stage '
                f'(train_cfg.candidates={self.candidates} now) or choose another budget'
            )
        self.runner.logger.info(
            f'joined: distances from {result[0].distance:.4f}, at {result[0].cost:,.0f} '
            f'{self.budget.resource}, to {result[-1].distance:.4f}.'
        )
        return result

    def _judge_stages(
        self, spaces: Sequence[SearchSpace], rows: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """The distances of every stage's candidates; the archive's, where it holds them."""
        logger, total = self.runner.logger, sum(map(len, rows))
        archived = on_main(self._open_stages)
        logger.info(
            f'{len(self.stages)} stages, {total:,} candidates to judge in {dist.get_world_size()} '
            f'processes; {self.stages_path} holds {len(archived):,}.'
        )
        judge = StageJudge(self.model, self._images(), self.fp16)
        done, clock, result = 0, Clock(), []
        with search_progress(total) as advance:
            for k, (stage, space, own) in enumerate(zip(self.stages, spaces, rows)):
                judge.enter(stage)
                places = [self.space.names.index(name) for name in space.names]
                whole = np.zeros((len(own), len(self.space)), dtype=np.int64)
                whole[:, places] = own
                keys = [tuple(row) for row in whole.tolist()]
                new = [i for i, key in enumerate(keys) if key not in archived]
                for _ in range(len(keys) - len(new)):
                    done += 1
                    advance(f'stage {stage.name}')
                wave = SHARE * dist.get_world_size()
                for start in range(0, len(new), wave):
                    mine = new[start : start + wave][dist.get_rank() :: dist.get_world_size()]
                    subnets = [(i, space.subnet(own[i])) for i in mine]
                    shares = gather(
                        lambda subnets=subnets: [(i, judge(subnet)) for i, subnet in subnets]
                    )
                    judged = sorted(pair for share in shares for pair in share)
                    entries = [
                        Judged(1, k, stage.name, keys[i], -distance, None, {})
                        for i, distance in judged
                    ]
                    on_main(lambda entries=entries: self.stage_archive.add(entries))
                    archived.update((entry.widths, -entry.score) for entry in entries)
                    for _ in entries:
                        done, clock.new = done + 1, clock.new + 1
                        advance(f'stage {stage.name}')
                distance = np.array([archived[key] for key in keys])
                finite = distance[np.isfinite(distance)]
                if not len(finite):
                    raise FloatingPointError(
                        f'no distance of stage {stage.name} is a number; is the supernet '
                        f'{compat.load_path(self.runner)} trained?'
                    )
                logger.info(
                    f'stage {stage.name}: {len(own)} candidates, distances {finite.min():.4f} to '
                    f'{finite.max():.4f}; {clock.text(total - done)}'
                )
                result.append(distance)
        return result

    def _images(self) -> list[torch.Tensor]:
        loader = self.runner.val_loop.dataloader
        return [
            self.model.data_preprocessor(batch, False)['inputs']
            for batch in itertools.islice(loader, self.batches)
        ]

    @property
    def stages_path(self) -> Path:
        return self.archive_path.with_name('stages.db')

    def _open_stages(self) -> dict[tuple[int, ...], float]:
        """The distances that are known."""
        identity = dict(
            self.identity,
            stages=[stage.parts for stage in self.stages],
            batches=self.batches,
            batch_size=self.runner.val_loop.dataloader.batch_size,
        )
        self.stage_archive = Archive(self.stages_path, identity)
        return {row.widths: -row.score for row in self.stage_archive.rows()}


def more_candidates(
    rows: np.ndarray,
    count: int,
    space: SearchSpace,
    cost: TableCost,
    parents: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Candidates of a stage: ``rows`` and others, none twice, up to ``count`` or all there are.

    Args:
        rows: Candidates so far, ``(subnets, units)``.
        count: The number of candidates.
        space: The space of the stage.
        cost: The cost of the stage.
        parents: Those whose mutants the others are; if there are none, they are spread over the
            cost.
        rng: Random numbers.
    """
    known = dict.fromkeys(map(tuple, rows.tolist()))
    if space.size <= count:
        everything = itertools.product(*(unit.candidates for unit in space.units))
        return np.array(list({**known, **dict.fromkeys(everything)}))
    draws = UniformSampler(space, cost) if len(parents) else SpreadSampler(space, cost)
    for _ in range(100):  # a space that is not much larger has repeats
        if len(known) >= count:
            break
        others = draws.sample(rng, count)
        if len(parents):
            some = parents[rng.integers(len(parents), size=count)]
            others = np.where(rng.random(some.shape) < MUTATION, others, some)
        known.update(dict.fromkeys(map(tuple, others.tolist())))
    return np.array(list(known)[:count])


def column(space: SearchSpace, unit: str | None, rows: np.ndarray) -> np.ndarray:
    """Widths of a boundary; zeros where there is none."""
    return np.zeros(len(rows), np.int64) if unit is None else rows[:, space.names.index(unit)]
