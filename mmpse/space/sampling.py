"""Drawing subnets: for training the supernet, and inside a budget for the search."""

import numpy as np

from mmpse.errors import UserError

from .budget import Budget, BudgetError
from .conditional import ConditionalSampler
from .cost import Cost
from .search_space import SearchSpace

SAMPLERS = ('prior', 'cost', 'loss', 'uniform')


class WidthDistribution:
    """Independent distributions over the candidates of every unit.

    ``P[u, w]`` is proportional to ``exp(-energy[u, w])``.

    Args:
        energy: Array ``(units, candidates)``; ``None`` is the uniform distribution.
    """

    def __init__(self, space: SearchSpace, energy: np.ndarray | None = None) -> None:
        self.table = space.table
        energy = np.where(self.table == 0, np.inf, 0.0 if energy is None else energy)
        weights = np.exp(-(energy - energy.min(axis=1, keepdims=True)))
        self.probabilities = weights / weights.sum(axis=1, keepdims=True)
        self._cumulative = np.cumsum(self.probabilities, axis=1)
        self._cumulative[:, -1] = 1.0  # against rounding

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw widths, integer array ``(count, units)``."""
        draws = rng.random((count, len(self.table)))
        index = (draws[:, :, None] >= self._cumulative[None]).sum(axis=2)
        return np.take_along_axis(self.table[None], index[:, :, None], axis=2)[:, :, 0]


def tilted(
    space: SearchSpace, cost: Cost, target: float, energy: np.ndarray | None = None
) -> WidthDistribution:
    """The distribution nearest to ``exp(-energy)`` whose expected cost is ``target``.

    Among all distributions with that expected cost, ``P`` proportional to
    ``exp(-energy - tilt * cost of the width)`` is the one of least relative entropy (the cost of a
    width being linearised around the uniform subnet of that cost). The tilt is found by bisection,
    since the expected cost falls as it grows. Source: this project; the objective of PSE-Net's
    prior (arXiv 2408.16233) with its penalty replaced by the constraint itself.
    """
    base = np.zeros(space.table.shape) if energy is None else energy
    tiny, full = cost(space.array([space.tinynet, space.fullnet]))
    share = np.clip((target - tiny) / max(full - tiny, 1), 0.0, 1.0)
    centre = space.array([space.uniform(np.sqrt(share))])[0]  # FLOPs grow about as ratio**2
    price = np.where(space.table, cost.beside(space.table, centre), np.inf)
    price -= price.min(axis=1, keepdims=True)
    price[space.table == 0] = 0.0
    price /= price.max() or 1.0
    low, high = -1e3, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        distribution = WidthDistribution(space, base + middle * price)
        if cost.expected(space.table, distribution.probabilities) > target:
            low = middle
        else:
            high = middle
    return distribution


class UniformSampler(WidthDistribution):
    """Every unit's width independently and uniformly."""

    def __init__(self, space: SearchSpace, cost: Cost) -> None:  # as all samplers of a training
        super().__init__(space)


class RatioSampler:
    """One ratio for all units of a subnet (the widths of slimmable networks).

    A ratio is drawn evenly between the smallest of the space and 1; every unit takes the candidate
    nearest to it.
    """

    def __init__(self, space: SearchSpace, cost: Cost) -> None:
        self._space = space
        self._low = min(unit.candidates[0] / unit.max_width for unit in space.units)

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw widths, integer array ``(count, units)``."""
        ratios = rng.uniform(self._low, 1, count)
        return self._space.array([self._space.uniform(ratio) for ratio in ratios])


class SpreadSampler:
    """Subnets spread evenly over a range of FLOPs.

    Independent uniform widths crowd around their mean FLOPs and never visit the small and the large
    ends. Here a target is drawn evenly from the range first, then widths from the distribution
    tilted to that target.

    Args:
        cost: FLOPs of the subnets; only their ratios matter.
        low, high: Range as shares of the way from tinynet to fullnet.
        levels: Number of targets for which distributions are kept.
    """

    def __init__(
        self, space: SearchSpace, cost: Cost, low: float = 0.0, high: float = 1.0, levels: int = 32
    ) -> None:
        if not 0 <= low < high <= 1:
            raise UserError(f'expected 0 <= low < high <= 1, got low={low!r} and high={high!r}')
        tiny, full = cost(space.array([space.tinynet, space.fullnet]))
        shares = low + (np.arange(levels) + 0.5) / levels * (high - low)
        self._levels = [tilted(space, cost, tiny + s * (full - tiny)) for s in shares]

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw widths, integer array ``(count, units)``."""
        levels = rng.integers(len(self._levels), size=count)
        return np.concatenate([self._levels[level].sample(rng, 1) for level in levels])


def expected_loss(space: SearchSpace, widths: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """E[u, w]: how well subnets with width w in unit u did in training.

    The mean of the lowest fifth of their losses. A share, where BCNet takes a fixed number of
    losses, so that a width seen more often does not look better for it. A width never seen gets the
    worst E.

    Args:
        widths: Subnets of the training record, ``(samples, units)``.
        losses: Their losses relative to the running mean of their time, ``(samples,)``.

    Returns:
        Array ``(units, candidates)``, in standard deviations around the mean over seen widths,
        ``inf`` where a unit has fewer candidates.
    """
    energy = np.full(space.table.shape, np.nan)
    order = np.argsort(losses, kind='stable')
    ranked_widths, ranked_losses = widths[order], losses[order]
    for u, unit in enumerate(space.units):
        for c, width in enumerate(unit.candidates):
            seen = ranked_losses[ranked_widths[:, u] == width]
            if len(seen):
                energy[u, c] = seen[: max(1, round(len(seen) / 5))].mean()
    spread = np.nanstd(energy)
    energy = (energy - np.nanmean(energy)) / (spread if spread > 0 else 1.0)
    energy = np.where(np.isnan(energy), np.nanmax(energy), energy)
    return np.where(space.table, energy, np.inf)


class PriorSampler:
    """Subnets inside a budget, good ones more often: the prior of PSE-Net.

    The prior gives every unit its own distribution, and candidates are draws from it under the
    condition that they lie in the budget. What knows the cost meets that condition by
    construction, for the budget's first resource (:class:`ConditionalSampler`); what does not,
    for comparison as in the paper's Fig. 4, is drawn until it happens to. Draws that are not
    inside are rejected and counted.

    Args:
        energy: E[u, w] of :func:`expected_loss`; without it the prior is that of the cost alone.
        kind: ``'prior'``, from losses and cost; ``'cost'`` and ``'loss'``, from one of them;
            ``'uniform'``, from none.
        max_trials: Draws without a subnet inside after which the budget counts as unreachable.

    Attributes:
        distribution: The prior.
        trials: Draws so far.
        accepted: Those of them inside the budget.

    Raises:
        BudgetError: If no subnet lies in the window of the budget's first resource.
        ValueError: If the kind is unknown, or is 'loss' and there are none.
    """

    def __init__(
        self,
        space: SearchSpace,
        budget: Budget,
        energy: np.ndarray | None = None,
        kind: str = 'prior',
        max_trials: int = 200_000,
    ) -> None:
        if kind not in SAMPLERS:
            raise UserError(f'sampler must be one of {SAMPLERS}, got {kind!r}')
        if energy is None and kind == 'loss':
            raise UserError(
                "sampler 'loss' needs the losses of a supernet's training, and there are none; "
                "choose 'cost' or 'uniform', or train the supernet with mmpse.SupernetHook"
            )
        if kind in ('cost', 'uniform'):
            energy = None
        self.budget = budget
        self.max_trials = max_trials
        self.trials = 0
        self.accepted = 0
        if kind in ('loss', 'uniform'):
            self.distribution = self._draws = WidthDistribution(space, energy)
            return
        self.distribution = tilted(space, budget.cost, (budget.low + budget.high) / 2, energy)
        self._draws = ConditionalSampler(
            space, self.distribution.probabilities, budget.cost, budget.low, budget.high
        )
        if not self._draws.mass:
            raise BudgetError(
                f'no subnet has {budget}: the costs of this space leave a gap there; widen the '
                'window or choose another budget'
            )

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw ``count`` subnets inside the budget, integer array ``(count, units)``.

        Raises:
            BudgetError: If ``max_trials`` draws one after the other are not inside.
        """
        found: list[np.ndarray] = []
        missing, misses, batch = count, 0, 256
        while missing > 0:
            rows = self._draws.sample(rng, batch)
            inside = np.flatnonzero(self.budget.contains(rows))[:missing]
            missing -= len(inside)
            self.accepted += len(inside)
            self.trials += len(rows) if missing else int(inside[-1]) + 1
            misses = 0 if len(inside) else misses + len(rows)
            if misses >= self.max_trials:
                raise BudgetError(
                    f'none of {misses:,} draws has {self.budget}{self.budget.lowest(rows)}; choose '
                    "another budget or a wider window, and a sampler that knows the cost ('prior' "
                    "or 'cost')"
                )
            found.append(rows[inside])
            batch = 1024
        return np.concatenate(found)
