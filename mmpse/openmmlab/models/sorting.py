"""Sorting the channels of a model by what they do on training images."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mmpse.openmmlab import compat
from mmpse.slim import Layout, input_energies, sort_

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
            loss, _ = model.parse_losses(compat.forward_by_mode(model, batch, mode='loss'))
            loss.backward()
    with torch.no_grad(), input_energies(model, layout) as energies:
        for batch in batches if by == 'activation' else ():
            raw_outputs(model, batch['inputs'])
    sort_(model, layout, by, energies)
    if by == 'taylor':
        model.zero_grad()
        for parameter in frozen:
            parameter.requires_grad_(False)
