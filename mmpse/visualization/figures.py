"""Figures of searches and subnets."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmpse.search.archive import Judged
from mmpse.search.pareto import pareto_front

LINES = dict(fullnet=':', uniform='-.')  # of references
IN_A_ROW = 4  # names in the legend below a figure
NAMED = 8  # units in a legend: those that lose most at their least width


def _empty(width: float, height: float, x: str, y: str) -> tuple[Figure, Axes]:
    """A figure of one diagram with the names of its axes; sizes in inches."""
    figure = Figure(figsize=(width, height), layout='constrained')
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return figure, axes


def width_profile(subnets: Mapping[str, Mapping[str, int]], full: Mapping[str, int]) -> Figure:
    """Share of channels kept in every unit, one line per subnet (PSE-Net, Fig. 3's form).

    Args:
        subnets: Name in the legend -> subnet.
    """
    figure, axes = _empty(10, 3.6, '', 'share of channels kept')
    units = list(full)
    for name, subnet in subnets.items():
        shares = [subnet[unit] / full[unit] for unit in units]
        axes.plot(range(len(units)), shares, marker='o', markersize=4, label=name)
    axes.set_xticks(range(len(units)), units, rotation=60, ha='right', fontsize=8)
    axes.set_ylim(0, 1.05)
    axes.legend()
    return figure


def search_progress(
    searches: Mapping[str, tuple[Sequence[Judged], Sequence[Judged], Judged | None]], metric: str
) -> Figure:
    """Highest score so far and mean score of every generation; score against FLOPs with the front.

    The references, which a search judges first, are horizontal lines and larger points. What a
    search chose is a star.

    Args:
        searches: Name in the legend -> the subnets that a search judged, in that order; those of
            them within its budget, whose scores can be the highest; and the one that it chose.
        metric: Name of the score.
    """
    rows = -(-len(searches) // IN_A_ROW)  # of the legend
    figure = Figure(figsize=(10, 3.6 + 0.25 * rows), layout='constrained')
    left, right = figure.subplots(1, 2)
    for k, (name, (judged, within, chosen)) in enumerate(searches.items()):
        may_win = {row.widths for row in within}
        judged = [row for row in judged if np.isfinite(row.score)]
        references = [row for row in judged if not row.generation]
        scores: dict[int, list[float]] = {}
        highest: dict[int, float] = {}  # of those within the budget
        for row in judged:
            if row.generation:
                scores.setdefault(row.generation, []).append(row.score)
                score = row.score if row.widths in may_win else -np.inf
                highest[row.generation] = max(score, highest.get(row.generation, -np.inf))
        done = np.cumsum([len(of_generation) for of_generation in scores.values()])
        best = np.maximum.accumulate(list(highest.values()))
        style = dict(color=f'C{k}', marker='.')
        left.plot(done, np.where(np.isfinite(best), best, np.nan), **style, label=name)
        mean = [np.mean(values) for values in scores.values()]
        left.plot(done, mean, **style, linestyle='--')
        for row in references:  # one alone, where an earlier search of the archive has the other
            line = LINES[row.origin]
            left.axhline(row.score, color=f'C{k}', linestyle=line, linewidth=1)
        flops = [row.resources['flops'] / 1e6 for row in judged]
        sizes = [8 if row.generation else 40 for row in judged]
        right.scatter(flops, [row.score for row in judged], s=sizes, alpha=0.4, color=f'C{k}')
        if chosen is not None:
            place = chosen.resources['flops'] / 1e6, chosen.score
            right.scatter(*place, s=120, marker='*', color=f'C{k}', edgecolor='black', zorder=3)
        front = pareto_front(judged)
        right.step(
            [row.resources['flops'] / 1e6 for row in front],
            [row.score for row in front],
            where='post',
            color=f'C{k}',
        )
    left.set_xlabel('subnets judged')
    left.set_title('highest within the budget; -- mean of a generation; .. fullnet; -. uniform')
    right.set_xlabel('FLOPs (M multiply-adds)')
    right.set_title('every judged subnet, the front, and (star) what was chosen')
    for axes in (left, right):
        axes.set_ylabel(metric)
        axes.title.set_fontsize(8)
        axes.grid(alpha=0.3)
    figure.legend(loc='outside lower center', ncols=IN_A_ROW, fontsize=8)
    return figure


def sensitivity_curves(
    sensitivity: Mapping[str, Mapping[int, float]], full: Mapping[str, int]
) -> Figure:
    """What a model loses where one unit is cut, one line per unit.

    Args:
        sensitivity: Unit -> width -> loss above that of the full model.
    """
    x, y = "share of the unit's channels kept", "loss above the full model's"
    figure, axes = _empty(10, 4.2, x, y)
    order = sorted(sensitivity, key=lambda unit: -max(sensitivity[unit].values(), default=0.0))
    for k, unit in reversed(list(enumerate(order))):
        points = sorted({**sensitivity[unit], full[unit]: 0.0}.items())
        style = dict(color=f'C{k}', linewidth=1.8, label=unit, marker='.')
        if k >= NAMED:
            style = dict(color='0.75', linewidth=0.8)
        axes.plot([w / full[unit] for w, _ in points], [loss for _, loss in points], **style)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], fontsize=8)
    return figure


def judged_candidates(
    names: Sequence[str],
    flops: Sequence[float],
    losses: Sequence[float],
    errors: Sequence[float],
    chosen: str,
) -> Figure:
    """Loss against FLOPs of the candidates that a choice was made from.

    Args:
        names: Of the candidates.
        flops, losses: Of each.
        errors: Standard error of each one's distance from the first one; 0 for that.
        chosen: The name of the one that was taken.
    """
    figure, axes = _empty(7, 3.6, 'FLOPs (M multiply-adds)', 'loss on training images')
    for k, (name, x, y, error) in enumerate(zip(names, flops, losses, errors, strict=True)):
        label = f'{name} (chosen)' if name == chosen else name
        size = 10 if name == chosen else 6
        axes.errorbar(
            x / 1e6, y, error, fmt='o', markersize=size, capsize=4, color=f'C{k}', label=label
        )
    axes.legend(fontsize=8)
    return figure


def training_losses(flops: np.ndarray, losses: np.ndarray, iterations: np.ndarray) -> Figure:
    """Training losses of a supernet's subnets against their FLOPs, coloured by iteration; all
    ``(subnets,)``."""
    figure, axes = _empty(6.5, 4, 'FLOPs (M multiply-adds)', 'label loss')
    points = axes.scatter(flops / 1e6, losses, c=iterations, s=6, alpha=0.6, cmap='viridis')
    figure.colorbar(points, label='iteration')
    return figure
