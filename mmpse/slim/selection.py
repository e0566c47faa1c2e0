"""Selection: an order of channels in which the first ones tell most about what all bring.

Forward selection, as in regression. A channel's gain is how much less the layers that read its unit
would miss if it joined the channels before it, and these predicted the rest. So a channel that is
strong but like another one comes late, and the order suits
:class:`mmpse.slim.reconstruction.Reconstruction`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .cutting import dims_of
from .layout import Layout
from .samples import Samples, moments_of, readers_in

STEPS = 256  # of a selection: of a wider unit several channels are taken at once
NOISE = 1e-4  # of the mean variance: what is not worth a prediction


@torch.no_grad()
def selected(model: nn.Module, layout: Layout, samples: Samples) -> dict[str, Tensor]:
    """How soon the channels of every unit are selected.

    Returns:
        Unit -> ``(channels,)``, the more the sooner; zeros if no layer read it.
    """
    readings: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layout.units}
    for name, (layer, sides) in readers_in(model, layout).items():
        if name not in samples:
            continue
        covariance = covariance_of(samples[name])
        weight = layer.weight.movedim(dims_of(layer)[1], 0).flatten(1).double()
        repeat = len(weight) // len(covariance)  # positions of a flattened channel
        weight = weight.reshape(len(covariance), -1)
        gram = weight @ weight.T
        total = (covariance * gram).sum().clamp(min=1e-12)
        at = 0
        for unit, channels, times in sides.inputs:
            end = at + channels * times // repeat
            if unit is not None:
                block = slice(at, end, times // repeat)
                readings[unit].append((covariance[block, block], gram[block, block] / total))
            at = end
    return {
        name: forward_selection(readings[name], unit.width, unit.step)
        for name, unit in layout.units.items()
    }


def covariance_of(calls: list[Tensor]) -> Tensor:
    """The covariance of channels ``(channels, channels)``; each call has the same weight."""
    products = moments_of(calls, calls).products
    return products[:-1] - torch.outer(products[-1], products[-1])


def forward_selection(readings: list[tuple[Tensor, Tensor]], width: int, step: int = 1) -> Tensor:
    """Select channels one after the other, each the one that explains most.

    Args:
        readings: Of every layer that reads the channels, their covariance and the Gram matrix of
            the weights that read them, ``(width, width)`` both.
        step: Blocks of so many are selected as wholes.

    Returns:
        Steps that were left when each was selected ``(width,)``.
    """
    soon = torch.zeros(width // step)
    if not readings:
        return soon.repeat_interleave(step)
    left = torch.ones(width // step, dtype=torch.bool)
    together = max(1, width // STEPS) // step or 1
    states = []
    for covariance, gram in readings:
        noise = NOISE * covariance.diagonal().mean().clamp(min=1e-12)
        missed = ((covariance @ gram) * covariance).sum(1)
        states.append([covariance.clone(), gram, noise, missed])
    for rank in range(len(left), 0, -together):
        gain = sum(missed / (s.diagonal().clamp(min=0) + noise) for s, _, noise, missed in states)
        gain = gain.cpu().view(-1, step).sum(1).masked_fill(~left, -torch.inf)
        blocks = gain.topk(min(together, rank)).indices
        soon[blocks], left[blocks] = float(rank), False
        chosen = (blocks[:, None] * step + torch.arange(step)).flatten()
        for state in states:
            s, gram, noise, missed = state
            column = s[:, chosen]
            explains = column @ torch.linalg.inv(
                column[chosen] + noise * torch.eye(len(chosen)).to(column)
            )
            read = gram @ column
            state[3] = (
                missed
                - 2 * (explains * (s @ read)).sum(1)
                + (explains @ (column.T @ read) * explains).sum(1)
            )
            s -= explains @ column.T
    return soon.repeat_interleave(step)
