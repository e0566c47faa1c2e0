"""Sorting the channels of a model by what they do on training images."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mmpse.slim import Layout, sample_inputs, sort_

from .losses import label_loss
from .outputs import raw_outputs


def sort_by(
    model: nn.Module, layout: Layout, by: str, batches: Sequence[Mapping[str, Any]]
) -> None:
    """Sort the channels of every unit, in place; the model computes the same.

    Args:
        model: The full-width model in eval mode.
        by: See :func:`mmpse.slim.sorting.importances`.
        batches: Training images and annotations, as
            :func:`mmpse.openmmlab.models.losses.preprocessed` gives them.
    """
    if by == 'taylor':
        frozen = [p for p in model.parameters() if not p.requires_grad]
        model.requires_grad_(True)  # frozen layers have channels too
        for batch in batches:
            label_loss(model, batch).backward()
    samples = None
    if by == 'selection':
        samples = sample_inputs(model, layout, [b['inputs'] for b in batches], raw_outputs)
    sort_(model, layout, by, samples)
    if by == 'taylor':
        model.zero_grad()
        for parameter in frozen:
            parameter.requires_grad_(False)
