"""Figures of searches and subnets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmpse.engine import Judged


def width_profile(subnets: Mapping[str, Mapping[str, int]], full: Mapping[str, int]) -> Figure:
    """Share of channels kept in every unit, one line per subnet (PSE-Net, Fig. 3's form).

    Args:
        subnets: Name in the legend -> subnet.
        full: The fullnet.
    """
    figure = Figure(figsize=(10, 3.6), layout='constrained')
    axes = figure.subplots()
    units = list(full)
    for name, subnet in subnets.items():
        shares = [subnet[unit] / full[unit] for unit in units]
        axes.plot(range(len(units)), shares, marker='o', markersize=4, label=name)
    axes.set_xticks(range(len(units)), units, rotation=60, ha='right', fontsize=8)
    axes.set_ylim(0, 1.05)
    axes.set_ylabel('share of channels kept')
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def search_progress(judged: Sequence[Judged], metric: str) -> Figure:
    """Best score so far and mean score of every generation; score against FLOPs.

    Args:
        judged: The archive's subnets, in the order of judging.
        metric: Name of the score.
    """
    figure = Figure(figsize=(10, 3.6), layout='constrained')
    left, right = figure.subplots(1, 2)
    generations = sorted({row.generation for row in judged})
    scores = {g: [row.score for row in judged if row.generation == g] for g in generations}
    best = np.maximum.accumulate([max(scores[g]) for g in generations])
    ticks = [g + 1 for g in generations]
    left.plot(ticks, best, marker='o', label='best so far')
    left.plot(ticks, [np.mean(scores[g]) for g in generations], marker='o', label='mean')
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_xlabel('generation')
    left.set_ylabel(metric)
    left.grid(alpha=0.3)
    left.legend()
    points = right.scatter(
        [row.resources['flops'] / 1e6 for row in judged],
        [row.score for row in judged],
        c=[row.generation + 1 for row in judged],
        s=12,
    )
    figure.colorbar(points, label='generation', ticks=MaxNLocator(integer=True))
    right.set_xlabel('FLOPs (M multiply-adds)')
    right.set_ylabel(metric)
    right.grid(alpha=0.3)
    return figure


def detections(
    images: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    labels: Sequence[Sequence[str]],
) -> Figure:
    """Images with the boxes found on them.

    Args:
        images: RGB images ``(H, W, 3)``.
        boxes: For every image ``(boxes, 4)`` as x1, y1, x2, y2 in pixels.
        labels: For every image one text per box.
    """
    figure = Figure(figsize=(3 * len(images), 3), layout='constrained')
    for axes, image, of_image, texts in zip(
        figure.subplots(1, len(images), squeeze=False)[0], images, boxes, labels, strict=True
    ):
        axes.imshow(image)
        axes.set_axis_off()
        for (x1, y1, x2, y2), text in zip(of_image, texts, strict=True):
            axes.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color='yellow', linewidth=1)
            axes.text(
                x1, y1, text, fontsize=7, va='bottom', backgroundcolor=(1, 1, 0, 0.6), clip_on=True
            )
    return figure
