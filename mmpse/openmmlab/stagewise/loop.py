"""Stage-wise search (arXiv 2011.04908): stages one by one, joined under the budget."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.runner import Runner
from mmpretrain.models import ImageClassifier
from torch import Tensor

from mmpse.errors import UserError
from mmpse.openmmlab import compat
from mmpse.openmmlab.jobs import model_of
from mmpse.openmmlab.models.pruned import look
from mmpse.openmmlab.progress import Clock, search_bar
from mmpse.openmmlab.search.base import Candidate, SearchLoop
from mmpse.openmmlab.search.parallel import on_main, processes, shared
from mmpse.registry import LOOPS
from mmpse.search.archive import Archive, Judged
from mmpse.slim import Supernet
from mmpse.space import BudgetError, SpreadSampler, StageTable, UniformSampler, join, split_cost

from .stages import StageJudge, Stages

UNIFORM = 21  # uniform subnets among the candidates
SHARE = 8  # candidates that each process judges before they are written down
MUTATION = 0.2  # probability with which a unit of a mutant is drawn anew
MOST = 100_000  # joined subnets that are tried against further limits


@LOOPS.register_module()
class StageWiseSearchLoop(SearchLoop):
    """Search of the stages by their distance to the fullnet, then of the joined subnets.

    Candidates are drawn: the uniform ones, and others spread over the cost. Each is judged by the
    distances of its stages to the fullnet's (:class:`StageJudge`) on images spread over the
    held-out split. No stage's distance depends on another stage. So all are judged in one forward,
    and joined exactly: of all subnets made of judged stages that share what joins them, and within
    the budget, those of the least sum of distances. These are judged as by every other search, and
    the best of them wins; it may cost less than the window.

    Distances are kept in ``stages.db`` beside the archive, in the same format: ``parts`` are the
    stages' distances, and the score is minus their sum. Any supernet can be searched, however it
    was trained.

    Args:
        stages: Modules of the backbone behind which a stage ends, see
            :class:`mmpse.openmmlab.stagewise.stages.Stages`. They need not be those of the
            training.
        candidates: Candidates of each round.
        rounds: Rounds of candidates. Those of the first are drawn, those of the others are mutants
            of the best joined subnets so far.
        batches: Batches of the ``val_dataloader``'s size, of images spread over its data set, on
            which distances are taken. The fullnet's features at the ends of all stages are in
            memory.
        joined: Joined subnets to judge.
        **kwargs: See :class:`SearchLoop`.

    Raises:
        ValueError: If the model is not a classifier, or the stages are none.
    """

    def __init__(
        self,
        runner: Runner,
        *args,
        stages: Sequence[str] | None = None,
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
                raise UserError(f'{name} must be a whole number from {least} on, got {value!r}')
        model = model_of(runner)
        if not isinstance(model, ImageClassifier):
            raise UserError(
                'a stage-wise search compares the scores of classifiers, got '
                f'{type(model).__name__}; search this model with mmpse.EvolutionSearchLoop'
            )
        self.stages = Stages(model, stages)
        self.candidates = candidates
        self.rounds = rounds
        self.batches = batches
        self.joined = joined
        super().__init__(runner, *args, **kwargs)

    @property
    def max_iters(self) -> int:
        return self.joined

    def within(self, widths: np.ndarray) -> np.ndarray:
        return self.budget.meets(widths)

    def propose(self, generation: int) -> list[Candidate]:
        return [] if generation else [('joined', tuple(row)) for row in self._joined.tolist()]

    def prepare(self, checkpoint: Mapping[str, Any]) -> None:
        judge = StageJudge(self.stages, self._supernet(), self._images(), self.fp16)
        archived = on_main(self._open_stages)
        units = self.stages.units(self.supernet.layout)
        uniform = {self.space.uniform(ratio) for ratio in np.linspace(0, 1, UNIFORM)}
        rows = self.space.array(sorted(uniform, key=lambda subnet: tuple(subnet.values())))
        parents = rows[:0]
        for round_ in range(self.rounds):
            rng = np.random.default_rng([self.seed, round_])
            rows = self._more(rows, self.candidates * (round_ + 1), parents, rng)
            found = self._judge_stages(judge, rows, round_, archived)
            parents = self._joined = self._join(rows, found, units)

    def _more(
        self, rows: np.ndarray, count: int, parents: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Candidates ``(subnets, units)``: ``rows`` and others, none twice, up to ``count``.

        The others are mutants of ``parents``; without parents they are spread over the cost.
        """
        space, cost = self.space, self.budget.cost
        known = dict.fromkeys(map(tuple, rows.tolist()))
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

    def _join(
        self, rows: np.ndarray, found: np.ndarray, units: Sequence[Sequence[str]]
    ) -> np.ndarray:
        """The best subnets made of judged stages, widths ``(subnets, units)``.

        Args:
            rows, found: Judged subnets ``(subnets, units)``, their distances ``(subnets, stages)``.
            units: The units of each stage.
        """
        places = [[self.space.names.index(name) for name in own] for own in units]
        costs = split_cost(self.budget.cost, units)
        # what joins a stage with the next one, numbered
        between = [
            np.unique(rows[:, sorted({*a} & {*b})], axis=0, return_inverse=True)[1].ravel()
            for a, b in itertools.pairwise(places)
        ]
        ends = [np.zeros(len(rows), np.int64)]
        between = [*ends, *between, *ends]
        tables, kept = [], []
        for k, (own, cost) in enumerate(zip(places, costs)):
            _, first = np.unique(rows[:, own], axis=0, return_index=True)
            kept.append(rows[first][:, own])
            tables.append(
                StageTable(
                    inputs=between[k][first],
                    outputs=between[k + 1][first],
                    cost=cost(kept[k]).astype(np.float64),
                    distance=found[first, k],
                )
            )
        result, best = [], []
        for subnet in itertools.islice(join(tables, self.budget.high), MOST):
            row = np.zeros(len(self.space), np.int64)
            for own, of_stage, number in zip(places, kept, subnet.rows):
                row[own] = of_stage[number]
            if self.within(row[None])[0]:
                result.append(row)
                best.append(subnet)
            if len(result) == self.joined:
                break
        if not result:
            raise BudgetError(
                f'no joined subnet is within {self.budget}; judge more candidates '
                f'(train_cfg.candidates={self.candidates} now) or choose another budget'
            )
        self.runner.logger.info(
            f'joined: distances from {best[0].distance:.4f}, at {best[0].cost:,.0f} '
            f'{self.budget.resource}, to {best[-1].distance:.4f}.'
        )
        return np.array(result)

    def _judge_stages(
        self,
        judge: StageJudge,
        rows: np.ndarray,
        round_: int,
        archived: dict[tuple[int, ...], tuple[float, ...]],
    ) -> np.ndarray:
        """The distances of candidates' stages ``(subnets, stages)``; what the archive lacks is
        judged."""
        logger = self.runner.logger
        keys = [key for key in map(tuple, rows.tolist()) if key not in archived]
        logger.info(
            f'round {round_ + 1}: {len(rows):,} candidates of {len(self.stages.names)} stages in '
            f'{processes()}; {self.stages_path} holds '
            f'{len(rows) - len(keys):,}.'
        )
        clock = Clock()
        with search_bar(len(keys)) as advance:
            for wave, judged in shared(keys, lambda key: judge(self.space.subnet(key)), SHARE):
                entries = [
                    Judged(1, round_, 'stages', key, -sum(distances), None, {}, distances)
                    for key, distances in zip(wave, judged)
                ]
                on_main(lambda entries=entries: self.stage_archive.add(entries))
                archived.update(zip(wave, judged))
                for _ in wave:
                    clock.new += 1
                    advance(f'round {round_ + 1}')
        found = np.array([archived[tuple(row)] for row in rows.tolist()])
        for name, of_stage in zip(self.stages.names, found.T):
            finite = of_stage[np.isfinite(of_stage)]
            if not len(finite):
                raise FloatingPointError(
                    f'no distance of stage {name} is a number; is the supernet '
                    f'{compat.load_path(self.runner)} trained?'
                )
            logger.info(f'stage {name}: distances {finite.min():.4f} to {finite.max():.4f}')
        logger.info(f'round {round_ + 1}: {clock.text(0)}')
        return found

    def _supernet(self) -> Supernet:
        """The supernet with the stages' parts."""
        model, layout = self.supernet.model, self.supernet.layout
        if layout.parts.keys() != set(self.stages.parts):
            found, _ = look(model, self.input_shape[1:], parts=self.stages.parts)
            layout = replace(layout, parts=found.parts, leaky=found.leaky)
        return Supernet(model, layout, self.space)

    def _images(self) -> list[Tensor]:
        """Batches of images that are spread over the split: its order may be that of the classes,
        and a batch of one class has statistics of its own."""
        loader = self.runner.val_loop.dataloader
        dataset = loader.dataset
        count = min(self.batches * loader.batch_sampler.batch_size, len(dataset))
        numbers = [k * len(dataset) // count for k in range(count)]
        preprocess = self.supernet.model.data_preprocessor
        return [
            preprocess(loader.collate_fn([dataset[k] for k in batch]), False)['inputs']
            for start in range(self.batches)
            if (batch := numbers[start :: self.batches])
        ]

    @property
    def stages_path(self) -> Path:
        return self.archive_path.with_name('stages.db')

    def _open_stages(self) -> dict[tuple[int, ...], tuple[float, ...]]:
        """The distances that are known."""
        identity = dict(
            self.identity,
            stages=self.stages.ends,
            batches=self.batches,
            images='spread over the split',  # of older archives the first ones
            batch_size=self.runner.val_loop.dataloader.batch_sampler.batch_size,
        )
        self.stage_archive = Archive(self.stages_path, identity)
        return {row.widths: row.parts for row in self.stage_archive.rows()}
