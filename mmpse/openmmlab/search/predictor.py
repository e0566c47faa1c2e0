"""The search that judges what the losses of the training predict to be best."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from mmpse.errors import UserError
from mmpse.openmmlab.supernet.record import recorded_losses
from mmpse.registry import LOOPS
from mmpse.search import (
    BudgetSampler,
    Gain,
    Predictor,
    best_few,
    notch_table,
    paired_gain,
    predictor_of,
    refitted,
)
from mmpse.search.archive import Judged

from .base import Candidate, SearchLoop

EXPLORED = 24  # subnets that are judged where training recorded no losses
SPARE = 10  # times as many are drawn, since some are drawn twice


def predictor_in(search: SearchLoop) -> Predictor:
    """A predictor by the losses that training recorded, and by what was judged.

    Not by all that is in the archive: after a kill that is more than at the first time.
    """
    judged = {row.widths: row for row in (*search.known, *search.history.values())}
    rows = [row for row in judged.values() if np.isfinite(row.score)]
    widths, values = np.array([row.widths for row in rows]), losses_of(rows)
    reference = np.array(search.uniform)
    record = recorded_losses(search.checkpoint)
    if record is None:
        return Predictor(search.space, search.budget.cost, reference, widths, values)
    return refitted(predictor_of(search.space, search.budget, reference, *record), widths, values)


def losses_of(rows: Sequence[Judged]) -> np.ndarray:
    """What judged subnets lost, ``(subnets,)``: logarithms of losses, else minus the scores."""
    losses = [row.loss for row in rows]
    if None in losses:
        return np.array([-row.score for row in rows])
    return np.log(np.maximum(losses, np.finfo(float).tiny))


@LOOPS.register_module()
class PredictorSearchLoop(SearchLoop):
    """Fit a predictor to the losses of the training, and judge the few subnets it takes for best.

    Every step of a supernet's training gives losses of subnets away. A predictor fitted to them
    (:class:`mmpse.search.Predictor`), and to what the archive holds of judged subnets, finds the
    widths that are most surely better than uniform pruning. Only these are judged. Uniform pruning
    wins unless one of them beats it, on parts of the held-out images, by more than a standard
    error. The winner may cost less than the window. Source: this project.

    The log has a table of what a notch of each unit costs, and how well the predictor ranks what
    was judged.

    Args:
        candidates: Subnets that the predictor chooses.
        explored: Subnets of 0.4 to 2 times the budget to judge before, which the predictor is
            fitted to; ``None``: 24 if training recorded no losses, else none.
        **kwargs: See :class:`SearchLoop`.
    """

    parts = True

    def __init__(
        self, *args: Any, candidates: int = 10, explored: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if explored is None:
            explored = EXPLORED if recorded_losses(self.checkpoint) is None else 0
        if candidates < 1 or explored < 0:
            raise UserError(
                f'expected a positive number of candidates and none or more explored, got '
                f'candidates={candidates}, explored={explored}'
            )
        self.candidates = candidates
        self.explored = explored
        self.predictor: Predictor | None = None

    @property
    def max_iters(self) -> int:
        return self.explored + self.candidates

    def within(self, widths: np.ndarray) -> np.ndarray:
        return self.budget.meets(widths)

    def propose(self, generation: int) -> list[Candidate]:
        explores = not generation and self.explored
        self.judge.parts = not explores
        if explores:
            sampler = BudgetSampler(self.space, self.costs, self.limits)
            drawn = sampler.sample(np.random.default_rng(self.seed), SPARE * self.explored)
            rows = dict.fromkeys(map(tuple, drawn.tolist()))
            rows = [row for row in rows if row not in self.history]
            return [('explored', row) for row in rows[: self.explored]]
        if self.predictor is None:
            self.predictor = predictor_in(self)
            self.runner.logger.info(
                f'what a notch of a unit costs:\n{notch_table(self.predictor.notches())}'
            )
            rows = best_few(self.predictor, self.budget, self.candidates)
            if len(rows):
                return [('predictor', tuple(row)) for row in rows.tolist()]
            self.runner.logger.info('nothing is predicted to be surely better than uniform.')
        self._report()
        return []

    def _report(self) -> None:
        rows = [row for row in self.history.values() if np.isfinite(row.score)]
        predicted = self.predictor.predict(np.array([row.widths for row in rows]))
        tau = kendalltau(predicted, losses_of(rows)).statistic
        known = set(map(tuple, self.predictor.record[0].tolist()))
        fitted = sum(row.widths in known for row in rows)
        these = f'{len(rows)} subnets' + f', {fitted} of which it was fitted to' * bool(fitted)
        said = f"Kendall's tau of what was predicted and judged of {these}: {tau:.2f}"
        best = self.ranked()[0]
        if best.widths != self.uniform:
            gain = self._gain(best)
            said += f'; the best is {gain.mean:.4g} +- {gain.error:.2g} better than uniform'
        self.runner.logger.info(f'{said}.')

    def ranked(self) -> list[Judged]:
        """The judged subnets within the budget: uniform pruning is the best unless surely beaten.

        A subnet without parts, which was explored, is in no place to beat it.
        """
        rows = super().ranked()
        uniform = self.history.get(self.uniform)
        if uniform is None or not np.isfinite(uniform.score):
            return rows
        best = max(rows, key=lambda row: self._gain(row).mean)
        first = best if self._gain(best).sure else uniform
        return [first, *(row for row in rows if row is not first)]

    def _gain(self, row: Judged) -> Gain:
        """How much better than uniform pruning a subnet is, in parts of the images."""
        uniform = self.history[self.uniform]
        alike = (row.loss is None) == (uniform.loss is None)  # losses, or scores
        if not (row.parts and uniform.parts and alike):
            return Gain(-np.inf, np.inf)
        sign = 1 if row.loss is not None else -1
        return paired_gain(sign * np.array(uniform.parts), sign * np.array(row.parts))
