"""The searches: what each judges next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from mmpse.errors import UserError
from mmpse.openmmlab import compat
from mmpse.openmmlab.checkpoints.supernet import supernet_state
from mmpse.openmmlab.supernet.record import relative_losses
from mmpse.registry import LOOPS
from mmpse.search import best_few
from mmpse.search.archive import Judged, ranking_key
from mmpse.search.pareto import pareto_front, pareto_order
from mmpse.space import PriorSampler, expected_loss

from .base import Candidate, SearchLoop
from .predictor import predictor_in

DRAWS = 64  # mutants or crossovers made at once
ROUNDS = 200  # times that more are made, before a generation is filled in another way


@LOOPS.register_module()
class RandomSearchLoop(SearchLoop):
    """Random search: ``generations * population`` subnets drawn from the prior.

    The prior (PSE-Net, arXiv 2408.16233) comes from the checkpoint's loss record; without one it is
    of the cost alone.

    Args:
        population: Subnets of a generation.
        generations: Number of generations.
        sampler: What subnets are drawn by: ``'prior'``, ``'cost'``, ``'loss'`` or ``'uniform'``;
            see :class:`mmpse.space.PriorSampler`.
        **kwargs: See :class:`SearchLoop`.
    """

    def __init__(
        self, *args, population: int = 50, generations: int = 20, sampler: str = 'prior', **kwargs
    ) -> None:
        super().__init__(*args, **kwargs)
        if min(population, generations) < 1:
            raise UserError(
                f'expected a positive population and number of generations, got '
                f'population={population}, generations={generations}'
            )
        self.population = population
        self.generations = generations
        self.sampler = sampler

    @property
    def max_iters(self) -> int:
        return self.population * self.generations

    def prepare(self, checkpoint: Mapping[str, Any]) -> None:
        state, energy = supernet_state(checkpoint), None
        if state is not None and len(state['record']['loss']):
            energy = expected_loss(self.space, *relative_losses(state['record']))
        else:
            self.runner.logger.warning(
                f'{compat.load_path(self.runner)} holds no losses of single subnets (a training '
                'with mmpse.SupernetHook records them): candidates are drawn by cost alone.'
            )
        self.prior = PriorSampler(self.space, self.budget, energy, self.sampler)

    def propose(self, generation: int) -> list[Candidate]:
        if generation == self.generations:
            return []
        rng = np.random.default_rng([self.seed, generation])
        proposed = Generation(self)
        self.breed(generation, rng, proposed)
        missing = self.population - len(proposed.candidates)
        proposed.fill('prior', missing, partial(self.prior.sample, rng))
        if not proposed.candidates:
            self.runner.logger.info('every subnet within the budget that could be found is judged.')
        return proposed.candidates

    def breed(self, generation: int, rng: np.random.Generator, proposed: Generation) -> None:
        """Take candidates that are made of what is known; the rest is drawn."""


@LOOPS.register_module()
class EvolutionSearchLoop(RandomSearchLoop):
    """Evolutionary search (PSE-Net, arXiv 2408.16233).

    The first generation is that of the random search; the others are made of the best so far, what
    an earlier search left in the archive included.

    Args:
        parents: Best subnets so far from which the next generation is made; ``None``: a fifth of
            the population.
        mutants: Subnets of a generation that are mutated parents, ``None``: half of them; the
            others are crossovers.
        mutation: Probability with which a unit of a mutant is drawn anew, from the prior.
        pareto: Search for the front of score against the budget's (first) resource in the whole
            ``window``, which is wide then (0.5: half the limit to the limit). Parents are selected
            as in NSGA-II, and the front is ``work_dir/pareto.json``.
        start: Subnets of the first generation that a predictor chooses, as in a
            :class:`PredictorSearchLoop`.
        **kwargs: See :class:`RandomSearchLoop`.
    """

    def __init__(
        self,
        *args,
        parents: int | None = None,
        mutants: int | None = None,
        mutation: float = 0.1,
        pareto: bool = False,
        start: int = 0,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        parents = max(self.population // 5, 1) if parents is None else parents
        mutants = self.population // 2 if mutants is None else mutants
        if not 1 <= parents <= self.population or not 0 <= mutants <= self.population:
            raise UserError(
                f'expected 1 <= parents <= population and 0 <= mutants <= population, got '
                f'parents={parents}, mutants={mutants}, population={self.population}'
            )
        self.parents = parents
        self.mutants = mutants
        self.mutation = mutation
        self.pareto = pareto
        self.start = start

    def prepare(self, checkpoint: Mapping[str, Any]) -> None:
        super().prepare(checkpoint)
        for row in self.known:
            if self.within(np.array([row.widths]))[0]:
                self.history[row.widths] = row

    def breed(self, generation: int, rng: np.random.Generator, proposed: Generation) -> None:
        if not generation:
            if self.start:
                found = best_few(predictor_in(self), self.budget, self.start)
                proposed.take('predictor', found, self.start)
            return
        ranked = self.ranked()
        if self.pareto:
            ranked = pareto_order(ranked, self.budget.resource)
        parents = np.array([row.widths for row in ranked[: self.parents]])

        def some() -> np.ndarray:
            return parents[rng.integers(len(parents), size=DRAWS)]

        def mutate(_: int) -> np.ndarray:
            rows, drawn = some(), self.prior.distribution.sample(rng, DRAWS)
            return np.where(rng.random(rows.shape) < self.mutation, drawn, rows)

        def cross(_: int) -> np.ndarray:
            rows, others = some(), some()
            return np.where(rng.random(rows.shape) < 0.5, others, rows)

        proposed.fill('mutation', self.mutants, mutate)
        proposed.fill('crossover', self.population - self.mutants, cross)

    def write(self, ranked: Sequence[Judged]) -> None:
        super().write(ranked)
        if self.pareto:
            self.write_subnets(pareto_front(ranked, self.budget.resource), 'pareto.json')


class Generation:
    """Candidates within the budget, none of them twice and none that was judged."""

    def __init__(self, search: SearchLoop) -> None:
        self.candidates: list[Candidate] = []
        self._taken = set(search.history)
        self._budget = search.budget

    def take(self, origin: str, rows: np.ndarray, count: int) -> int:
        """Take up to ``count`` of the subnets ``(subnets, units)``; how many are missing."""
        for widths in map(tuple, rows[self._budget.contains(rows)].tolist()):
            if count and widths not in self._taken:
                self._taken.add(widths)
                self.candidates.append((origin, widths))
                count -= 1
        return count

    def fill(self, origin: str, count: int, draw: Callable[[int], np.ndarray]) -> None:
        """Take ``count`` of the subnets that ``draw(missing)`` makes, or all if it has fewer."""
        for _ in range(ROUNDS):
            if not count:
                break
            count = self.take(origin, draw(count), count)


@LOOPS.register_module()
class GreedySearchLoop(SearchLoop):
    """AutoSlim's greedy slimming: from the fullnet, one unit narrower at each step.

    A step judges every unit's cut to its next narrower candidate, and keeps the best one, until the
    subnet is within the limit. It may end below the window.
    """

    def within(self, widths: np.ndarray) -> np.ndarray:
        return self.budget.meets(widths)

    @property
    def max_iters(self) -> int:
        """Cutting the units in turn, every one of them tried at each step."""
        row, count, unit = np.array(self.fullnet), 0, 0
        while not self.within(row[None])[0]:
            cuts = self._cuts(row)
            count += len(cuts)
            row = cuts[unit % len(cuts)]
            unit += 1
        return count

    def propose(self, generation: int) -> list[Candidate]:
        if not generation:
            self._proposed = [self.fullnet]
        best = np.array(min(map(self.archived.get, self._proposed), key=ranking_key).widths)
        if self.within(best[None])[0]:
            return []
        self._proposed = [tuple(row.tolist()) for row in self._cuts(best)]
        return [('cut', widths) for widths in self._proposed]

    def _cuts(self, row: np.ndarray) -> list[np.ndarray]:
        """The subnets that are one candidate narrower in one unit."""
        cuts = []
        for k, unit in enumerate(self.space.units):
            index = unit.candidates.index(row[k])
            if index:
                cut = row.copy()
                cut[k] = unit.candidates[index - 1]
                cuts.append(cut)
        return cuts


@LOOPS.register_module()
class UniformSearchLoop(SearchLoop):
    """Uniform pruning: the subnets of one ratio for all units.

    Those within the budget, or the nearest one below the limit where the window holds none.
    """

    def within(self, widths: np.ndarray) -> np.ndarray:
        return self.budget.meets(widths)

    @property
    def max_iters(self) -> int:
        return len(self._rows())

    def propose(self, generation: int) -> list[Candidate]:
        if generation:
            return []
        return [('uniform', tuple(row)) for row in self._rows().tolist()]

    def _rows(self) -> np.ndarray:
        rows = self.space.uniform_rows()
        inside = rows[self.budget.contains(rows)]
        if len(inside):
            return inside
        below = rows[self.within(rows)]
        return below[[np.argmax(self.budget.cost(below))]]
