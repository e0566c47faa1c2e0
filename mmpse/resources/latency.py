"""Latency of the whole model as a function of its units' widths, fitted to measurements."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from mmpse.slim.layers import is_grouped, is_mixing
from mmpse.slim.layout import Layout
from mmpse.slim.watch import evaluating, stubbed
from mmpse.space import Cost, SearchSpace

from .cost import sides_of_layer, terms, weight_terms

SUBNETS = 24  # measured to fit
HELD_OUT = 8  # measured to tell the error


class FittedLatency(NamedTuple):
    """A latency model."""

    cost: Cost  # microseconds of any subnet
    error: float  # mean relative error on subnets that were not fitted


def fit_latency(
    model: nn.Module,
    layout: Layout,
    space: SearchSpace,
    images: Tensor,
    rows: np.ndarray,
    seconds: np.ndarray,
    run: Callable[[Tensor], Any],
) -> FittedLatency:
    """Explain the latency of some subnets by the work of their layers.

    The time of a layer is taken to grow with its multiply-adds and with its output, at rates that
    layers of one kind, kernel and size of image share. The rates are those that explain the
    measurements best and are not negative.

    Args:
        images: A batch as it is measured, ``(B, C, H, W)``.
        rows: Widths of subnets, as :func:`spread` gives them.
        seconds: What they take.
        run: Runs the model on images.
    """
    work = _work(model, layout, space, images, run)
    features = np.stack([cost.exact(rows) for cost in work], 1)
    scale = features.max(0).clip(min=1e-12)
    # relative errors count: a small subnet's are as bad as a large one's
    design = features / scale / seconds[:, None]
    order = np.random.default_rng(0).permutation(len(rows))
    fitted, tested = order[:SUBNETS], order[SUBNETS:]
    rates, _ = nnls(design[fitted], np.ones(len(fitted)))
    error = float(np.abs(design[tested] @ rates - 1).mean())
    rates, _ = nnls(design, np.ones(len(rows)))
    total = Cost(space.names)
    for cost, rate in zip(work, 1e6 * rates / scale):
        total.constant += rate * cost.constant
        total.linear += rate * cost.linear
        total.quadratic += rate * cost.quadratic
    return FittedLatency(total, error)


def spread(space: SearchSpace) -> np.ndarray:
    """Subnets to measure, from the narrowest to the full one, with widths around one ratio each.

    Returns:
        Widths ``(subnets, units)``, the fullnet's first.
    """
    rng = np.random.default_rng(0)
    rows = [space.array([space.fullnet])[0], space.array([space.tinynet])[0]]
    for ratio in rng.uniform(0.15, 1, SUBNETS + HELD_OUT - 2):
        own = np.clip(ratio * np.exp(rng.normal(0, 0.35, len(space))), 0.05, 1)
        rows.append([unit.nearest(r) for unit, r in zip(space.units, own)])
    return np.array(rows)


def _work(
    model: nn.Module,
    layout: Layout,
    space: SearchSpace,
    images: Tensor,
    run: Callable[[Tensor], Any],
) -> list[Cost]:
    """A constant, and the multiply-adds and outputs of every kind of layer."""
    work: dict[Hashable, Cost] = defaultdict(lambda: Cost(space.names))
    work['constant'].add(1)

    def see(name: str, layer: Any, x: Tensor, y: Tensor) -> None:
        if not name:
            return
        sides = sides_of_layer(layout, name, layer)
        area = y.numel() / sum(s.positions for s in sides.outputs)
        if not is_mixing(layer) and not is_grouped(layer):
            for value, units in terms(sides.outputs):
                work['channelwise'].add(value * area, *units)
            return
        kernel = tuple(layer.weight.shape[2:])
        kind = type(layer).__name__, kernel
        pixels = math.prod((x if isinstance(layer, _ConvTransposeNd) else y).shape[2:])
        level = round(math.log(max(pixels, 1), 4))
        for value, units in weight_terms(layer, sides):
            work['products', kind, is_grouped(layer), level].add(value * area, *units)
        for value, units in terms(sides.outputs):
            work['outputs', kind].add(value * area, *units)

    with torch.no_grad(), evaluating(model), stubbed(model, see):
        run(images)
    return list(work.values())
