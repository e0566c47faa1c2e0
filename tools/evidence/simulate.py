"""Searches on a table of networks that were all trained: what each gains over uniform pruning.

python tools/evidence/simulate.py TABLE [--evaluations 48] [--out docs/results/simulation.json]

TABLE is an .npz file with one row for each network of a space: `quarters` (networks, units), the
widths in quarters of the full width; `flops` (networks,); `accuracy` (networks, trainings) in per
cent, of several independent trainings. Every network of the space has to be there, as in
Channel-Bench-Macro (github.com/xiusu/Channel-Bench-Macro).

A search sees scores: the mean accuracy over all trainings but one, and noise of 1, 2 or 4 times the
spread of the accuracies within the budget. What it picks is judged by the training that is left
out, so that no luck is counted twice, and compared with the mean of all trainings of the uniform
network of the same FLOPs.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from frame import ROOT, circumstances
from tables import table

from mmpse.files import write_json
from mmpse.search import Predictor
from mmpse.search.predictor import ERRORS
from mmpse.space import Budget, Cost, SearchSpace, SpreadSampler

NOISES = (1.0, 2.0, 4.0)
Score = Callable[[np.ndarray], np.ndarray]  # of networks, by their numbers
Search = Callable[..., int]  # of world, score, random generator and number of scores; a network


class World:
    """The networks of a table, and the budget of one of its uniform networks.

    Args:
        file: The table.
        quarter: Widths of the uniform network.
    """

    def __init__(self, file: Path, quarter: int) -> None:
        with np.load(file) as arrays:
            widths, flops, accuracy = (arrays[k] for k in ('quarters', 'flops', 'accuracy'))
        units = widths.shape[1]
        self.space = SearchSpace(
            {f'unit{k}': 4 for k in range(units)},
            dict(type='table'),
            ratios=(0.25, 0.5, 0.75, 1.0),
            divisor=1,
        )
        if len(widths) != self.space.size:
            raise SystemExit(f'{file} has {len(widths)} networks, expected {self.space.size}')
        order = np.lexsort(widths.T[::-1])
        self.widths = widths[order].astype(np.int64)
        flops, self.accuracy = flops[order], accuracy[order].astype(float)
        self.cost = fitted_cost(self.space, self.widths, flops)
        self.reference = np.full(units, quarter)
        self.uniform = int(self.numbers(self.reference[None])[0])
        self.budget = Budget(
            self.space, dict(flops=self.cost), dict(flops=int(flops[self.uniform]))
        )
        self.inside = np.flatnonzero(self.budget.contains(self.widths))
        self.spread = float(self.accuracy[self.inside].mean(axis=1).std())
        ends = self.cost(self.space.array([self.space.tinynet, self.space.fullnet]))
        shares = (np.array([0.4, 2.0]) * self.budget.high - ends[0]) / np.ptp(ends)
        self.around = SpreadSampler(self.space, self.cost, *np.clip(shares, 0, 1))

    def new(self, widths: np.ndarray, known: Sequence[int]) -> np.ndarray:
        """Those of the subnets that are within the budget, in order, none twice and none known."""
        numbers = self.numbers(widths[self.budget.contains(widths)])
        numbers = numbers[np.sort(np.unique(numbers, return_index=True)[1])]
        return numbers[~np.isin(numbers, known)]

    def numbers(self, widths: np.ndarray) -> np.ndarray:
        return (widths - 1) @ 4 ** np.arange(widths.shape[1])[::-1]


def fitted_cost(space: SearchSpace, widths: np.ndarray, flops: np.ndarray) -> Cost:
    """The quadratic form that gives the FLOPs of all networks."""
    units, names = range(len(space)), space.names
    terms = [(), *((u,) for u in units), *itertools.combinations_with_replacement(units, 2)]
    design = np.stack([widths[:, term].prod(axis=1) for term in terms], axis=1).astype(float)
    cost = Cost(names)
    for term, value in zip(terms, np.linalg.lstsq(design, flops, rcond=None)[0].round()):
        cost.add(value, *(names[u] for u in term))
    if (cost(widths) != flops).any():
        raise SystemExit('the FLOPs of the table are no quadratic form of the widths')
    return cost


def random_search(world: World, score: Score, rng: np.random.Generator, count: int) -> int:
    """The best score of subnets within the budget, the uniform one among them."""
    others = rng.permutation(world.inside[world.inside != world.uniform])[: count - 1]
    networks = np.append(world.uniform, others)
    return networks[score(networks).argmax()]


def evolution(world: World, score: Score, rng: np.random.Generator, count: int) -> int:
    """Four generations, otherwise as EvolutionSearchLoop by default."""
    population = count // 4
    others = rng.permutation(world.inside[world.inside != world.uniform])
    networks = np.append(world.uniform, others[: population - 1])
    scores = score(networks)
    while len(networks) < count:
        best = world.widths[networks[np.argsort(-scores)[: max(2, population // 5)]]]
        one, other = best[rng.integers(len(best), size=(2, 2000))]
        mutants = np.where(rng.random(one.shape) < 0.1, rng.integers(1, 5, one.shape), one)
        crossed = np.where(rng.random(one.shape) < 0.5, other, one)
        size = min(population, count - len(networks))
        born = world.new(mutants, networks)[: size // 2]
        born = np.append(born, world.new(crossed, [*networks, *born]))[:size]
        others = others[~np.isin(others, [*networks, *born])]  # where the parents are too alike
        born = np.append(born, others[: size - len(born)])
        if not len(born):  # all are judged
            break
        networks, scores = np.append(networks, born), np.append(scores, score(born))
    return networks[scores.argmax()]


def greedy(world: World, score: Score, rng: np.random.Generator, count: int) -> int:
    """From the fullnet, always the cut that scores best; it takes as many scores as it takes."""
    row = np.full(len(world.space), 4)
    while world.cost(row[None])[0] > world.budget.high:
        cuts = (row - np.eye(len(row), dtype=int))[row > 1]
        row = cuts[score(world.numbers(cuts)).argmax()]
    return int(world.numbers(row[None])[0])


def predictor(
    errors: float = ERRORS, refined: float = 0.3, finalists: int = 0, unsure: bool = False
) -> Search:
    """A search by :class:`mmpse.search.Predictor`.

    Args:
        errors: Of the lower bound.
        refined: Share of the scores of the record that is not of subnets of 0.4 to 2 times the
            budget, but of what each of so many refits to those holds to be the best.
        finalists: So many of the best are judged beside uniform, with a quarter of the scores;
            uniform is kept unless one of them is better by more than a standard error.
        unsure: Take the best one even where its bound is not positive.
    """

    def search(world: World, score: Score, rng: np.random.Generator, count: int) -> int:
        def fit(networks: np.ndarray, losses: np.ndarray) -> Predictor:
            record, seed = (world.widths[networks], losses), int(rng.integers(2**31))
            options = dict(refits=max(30, last), seed=seed)
            return Predictor(world.space, world.cost, world.reference, *record, **options)

        repeats = count // 4 // (finalists + 1) if finalists else 0
        count -= repeats * (finalists + 1)
        last = round(refined * count)
        networks = world.numbers(world.around.sample(rng, count - last))
        losses = -score(networks)
        if last:
            options = world.widths[world.inside] - 1
            of_refits = fit(networks, losses).tables()[:last, range(len(world.space)), options]
            for row in of_refits.sum(axis=2):  # none twice: what is odd about it would count twice
                row[np.isin(world.inside, networks)] = np.inf
                networks = np.append(networks, world.inside[row.argmin()])
            losses = np.append(losses, -score(networks[-last:]))
        model = fit(networks, losses)
        if unsure:
            return int(world.inside[model.predict(world.widths[world.inside]).argmin()])
        best = world.numbers(model.best(world.budget, errors, count=max(1, finalists)))
        if not len(best) or not repeats:
            return int(best[0]) if len(best) else world.uniform
        judged = np.append(world.uniform, best)
        scores = score(np.repeat(judged, repeats)).reshape(-1, repeats)
        error = np.sqrt(scores.var(axis=1, ddof=1).mean() * 2 / repeats)
        means = scores.mean(axis=1)
        return int(judged[means.argmax()]) if means.max() > means[0] + error else world.uniform

    return search


SEARCHES: dict[str, Search] = {
    'random': random_search,  # the arg-max of the scores
    'evolution': evolution,
    'greedy': greedy,
    'predictor': predictor(),
    'predictor, 0 errors': predictor(errors=0.0),
    'predictor, 1 error': predictor(errors=1.0),
    'predictor, arg-max': predictor(unsure=True),
    'predictor, not refined': predictor(refined=0.0),
    'predictor, 2 finalists': predictor(finalists=2),
}


def simulate(
    world: World, search: Search, noise: float, count: int, repetitions: int
) -> dict[str, Any]:
    """Repeat a search, each time with the next training left out.

    Returns:
        ``gain`` over uniform in points, mean over the repetitions, and its standard ``error``;
        ``worse``, the share of repetitions that are worse than uniform; ``kept``, the share that
        keep it; ``scores``, the mean number of them.
    """
    gains, used = [], 0
    uniform = world.accuracy[world.uniform].mean()
    for repetition in range(repetitions):
        left_out = repetition % world.accuracy.shape[1]
        accuracy = np.delete(world.accuracy, left_out, axis=1).mean(axis=1)
        rng = np.random.default_rng([repetition, count])

        def score(networks: np.ndarray, accuracy=accuracy, rng=rng) -> np.ndarray:
            nonlocal used
            used += len(networks)
            return accuracy[networks] + noise * world.spread * rng.normal(size=len(networks))

        found = search(world, score, rng, count)
        kept = found == world.uniform
        gains.append(0.0 if kept else world.accuracy[found, left_out] - uniform)
    gain = np.array(gains)
    return dict(
        gain=float(gain.mean()),
        error=float(gain.std() / np.sqrt(repetitions)),
        worse=float((gain < 0).mean()),
        kept=float((gain == 0).mean()),
        scores=used / repetitions,
    )


def oracle(world: World) -> float:
    """What is gained by the predictor of the scores without noise of all networks."""
    gains = []
    for left_out, judged in enumerate(world.accuracy.T):
        losses = -np.delete(world.accuracy, left_out, axis=1).mean(axis=1)
        model = Predictor(world.space, world.cost, world.reference, world.widths, losses)
        best = world.inside[model.predict(world.widths[world.inside]).argmin()]
        gains.append(judged[best] - world.accuracy[world.uniform].mean())
    return float(np.mean(gains))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('table', type=Path)
    parser.add_argument('--evaluations', type=int, default=48, help='scores of a search')
    parser.add_argument('--repetitions', type=int, default=300, help='of every search')
    parser.add_argument(
        '--quarters', type=int, nargs='+', default=[2, 3], help='widths of the uniform networks'
    )
    parser.add_argument('--searches', nargs='+', choices=list(SEARCHES), default=list(SEARCHES))
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/simulation.json')
    args = parser.parse_args(arguments)

    started, cpu, rows, worlds = time.monotonic(), time.process_time(), [], []
    for quarter in args.quarters:
        world = World(args.table, quarter)
        figures = dict(width=quarter / 4, flops=int(world.budget.high), oracle=oracle(world))
        worlds.append(dict(figures, spread=world.spread, networks=len(world.inside)))
        for name, noise in itertools.product(args.searches, NOISES):
            result = simulate(world, SEARCHES[name], noise, args.evaluations, args.repetitions)
            rows.append(dict(search=name, width=quarter / 4, noise=noise, **result))
    record = dict(
        kind='simulation',
        evaluations=args.evaluations,
        repetitions=args.repetitions,
        budgets=worlds,
        rows=rows,
        command=f'python tools/evidence/simulate.py TABLE --evaluations {args.evaluations}',
        **circumstances(time.monotonic() - started, time.process_time() - cpu),
    )
    write_json(args.out, record)
    print(report(record))


def report(record: dict[str, Any]) -> str:
    """The record as a table: gain in points, share of runs worse than uniform, regret."""
    text = ''
    for budget in record['budgets']:
        lines, rows = [], [row for row in record['rows'] if row['width'] == budget['width']]
        for name in dict.fromkeys(row['search'] for row in rows):
            cells = []
            for row in (row for row in rows if row['search'] == name):
                regret = budget['oracle'] - row['gain']
                cells.append(f'{row["gain"]:+.3f} / {row["worse"]:.0%} / {regret:.3f}')
            lines.append([name, *cells, f'{row["scores"]:.0f}'])
        noises = [f'noise {noise:g}' for noise in NOISES]
        text += (
            f'\nWidth {budget["width"]:.0%} ({budget["flops"] / 1e6:.1f} M FLOPs, '
            f'{budget["networks"]} networks, spread {budget["spread"]:.3f} points): gain over '
            'uniform in points / share of runs worse than uniform / regret; noise in spreads\n'
        )
        text += table(['search', *noises, 'scores'], lines)
    return text


if __name__ == '__main__':
    main()
