"""How much a trained model loses where one unit is cut: measured on a few training batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from mmpse.openmmlab.models.losses import Track, batch_losses
from mmpse.slim import Reconstruction, as_subnet
from mmpse.slim.cutting import layers_in
from mmpse.slim.reuse import noted_outputs, reused_outputs
from mmpse.space import SearchSpace

# of a unit's full width, at which it is measured; a third one changed no choice
RATIOS = (0.25, 0.5)


def measure_sensitivity(
    reconstruction: Reconstruction,
    space: SearchSpace,
    batches: Sequence[Mapping[str, Any]],
    ratios: Sequence[float] = RATIOS,
    track: Track = iter,
) -> dict[str, dict[int, float]]:
    """Cut one unit at a time, and see what the model loses.

    The channels that stay are the first ones, and what others brought is predicted from them. What
    a cut does not reach, as the backbone where a head is cut, runs once for each batch.

    Args:
        reconstruction: Of the full-width model, whose channels are sorted.
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
    model, layout, full = reconstruction.model, reconstruction.layout, dict(space.fullnet)
    touched = {
        unit.name: [m for _, m, sides in layers_in(model, layout) if unit.name in sides.units]
        for unit in space.units
    }
    found: dict[str, dict[int, list[float]]] = {unit.name: {} for unit in space.units}
    noted_for = None
    for batch, unit, width in track([(b, *point) for b in batches for point in points]):
        if batch is not noted_for:
            with noted_outputs(model) as notes:
                whole = batch_losses(model, [batch])
            noted_for = batch
        with (
            reconstruction.absorbed({**full, unit: width}),
            as_subnet(model, layout, {**full, unit: width}),
            reused_outputs(model, notes, touched[unit]),
        ):
            loss = batch_losses(model, [batch]) - whole
        found[unit].setdefault(width, []).append(float(loss))
    return {
        unit: {width: mean(losses) for width, losses in row.items()} for unit, row in found.items()
    }
