"""Which subnets the iterations of a supernet's training run."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmpse.registry import TASK_UTILS
from mmpse.search.around import BudgetSampler
from mmpse.space import RatioSampler, SearchSpace, SpreadSampler, UniformSampler

from .record import LossRecord

STAGES = 10  # of a training, after each of which the subnets may be drawn otherwise

# here, as their rooms know no registries
for sampler in (BudgetSampler, RatioSampler, SpreadSampler, UniformSampler):
    TASK_UTILS.register_module(module=sampler)


class Drawing:
    """The subnets of any process in any iteration, whichever process asks.

    Args:
        sampler: Draws what is not fixed; its ``sample`` takes a generator and a number.
        n: Subnets of a process in an iteration.
        fullnet, tinynet: Whether these are the first ones.
        resumed: The :meth:`state` of the training that goes on.
    """

    def __init__(
        self,
        space: SearchSpace,
        sampler: Any,
        n: int,
        fullnet: bool,
        tinynet: bool,
        seed: int,
        resumed: Mapping[str, Any] | None = None,
    ) -> None:
        self.space = space
        self.sampler = sampler
        self.n = n
        self.fixed = ['fullnet'] * fullnet + ['tinynet'] * tinynet
        self.seed = seed
        self._begin = -1  # of the stage, an iteration
        self._resumed = resumed or {}

    def rows(self, rank: int, iteration: int) -> np.ndarray:
        """Widths ``(n, units)``."""
        rows = [self.space.array([getattr(self.space, name)]) for name in self.fixed]
        if len(rows) < self.n:
            rng = np.random.default_rng([self.seed, rank, iteration])
            rows.append(self.sampler.sample(rng, self.n - len(rows)))
        return np.concatenate(rows)

    def narrow(self, iteration: int, iterations: int, record: LossRecord) -> None:
        """Let a sampler know, at every tenth of the training, what was recorded before."""
        if not isinstance(self.sampler, BudgetSampler):
            return
        length = max(1, iterations // STAGES)
        begin = iteration // length * length
        if begin != self._begin:
            self._begin = begin
            self.sampler.narrow(begin / iterations, *record.before(begin))
            if self._resumed.get('begin') == begin:
                best = self._resumed['best']
                self.sampler.best = None if best is None else np.array(best)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: at large scale the stage's record is longer than its own."""
        best = getattr(self.sampler, 'best', None)
        return dict(begin=self._begin, best=None if best is None else best.tolist())
