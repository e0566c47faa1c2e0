"""How much a trained model loses where one unit is cut: measured on a few training batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mmpse.openmmlab.models.losses import Track, batch_losses, batch_statistics
from mmpse.slim.cutting import as_subnet
from mmpse.slim.layout import Layout
from mmpse.space import SearchSpace

RATIOS = (0.25, 0.5, 0.75)  # of a unit's full width, at which it is measured


def measure_sensitivity(
    model: nn.Module,
    layout: Layout,
    space: SearchSpace,
    batches: Sequence[Mapping[str, Any]],
    ratios: Sequence[float] = RATIOS,
    track: Track = iter,
) -> dict[str, dict[int, float]]:
    """Cut one unit at a time, and see what the model loses.

    The channels that stay are the first ones: sort the model before. BatchNorms take the statistics
    of each batch, so that every subnet is recalibrated by itself.

    Args:
        model: The full-width model.
        layout: Its layout.
        space: The search space of the layout.
        batches: Training batches as :func:`mmpse.openmmlab.models.losses.preprocessed` gives them.
        ratios: Shares of the full width; of each the nearest candidate is measured.
        track: Wraps the iterable of measurements, for a progress bar.

    Returns:
        Unit -> width -> mean loss of the batches minus that of the full model.
    """
    points = [
        (unit.name, width)
        for unit in space.units
        for width in sorted({unit.nearest(ratio) for ratio in ratios})
        if width < unit.max_width
    ]
    full = dict(space.fullnet)
    found: dict[str, dict[int, float]] = {unit.name: {} for unit in space.units}
    with batch_statistics(model):
        whole = batch_losses(model, batches)
    for unit, width in track(points):
        with as_subnet(model, layout, {**full, unit: width}), batch_statistics(model):
            found[unit][width] = float((batch_losses(model, batches) - whole).mean())
    return found
