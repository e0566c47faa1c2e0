"""Sorting channels by importance, so that a prefix keeps the best ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from .slimmable import SlimmableBackbone, find_backbone

IMPORTANCES: dict[str, Callable[[nn.Conv2d, nn.Module | None], Tensor]] = {
    'bn': lambda conv, norm: norm.weight.abs(),
    'l1': lambda conv, norm: conv.weight.abs().sum((1, 2, 3)),
    'l2': lambda conv, norm: conv.weight.square().sum((1, 2, 3)).sqrt(),
}


@torch.no_grad()
def sort_channels(model: nn.Module, by: str = 'bn', fresh_head: bool = False) -> dict[str, Tensor]:
    """Permute the channels of every width unit, the most important first, in place.

    The function that the full network computes stays the same. What reads the backbone's features
    is permuted with them if it is a linear layer: a classifier's ``head.fc`` behind a pooling neck,
    or VGG's own classifier. Otherwise (a backbone alone, a detector, a segmentor) the units of
    those features keep their order.

    Args:
        model: A supernet's backbone, or a model that holds one.
        by: Importance of a channel: ``'bn'``, the scale of its normalisation; ``'l1'`` or ``'l2'``,
            the norm of its filter. A unit that several layers write (a residual sum; expansion and
            depthwise convolution) adds them up.
        fresh_head: Whether what reads the features is not trained yet: the order of their channels
            means nothing then, and they are sorted, too.

    Returns:
        Unit -> its permutation: the new channel k was channel ``permutation[k]``.

    Raises:
        ValueError: If ``by`` is unknown or needs a normalisation that is not there, or for a static
            subnet, whose channels are chosen already.
    """
    if by not in IMPORTANCES:
        raise ValueError(f'channels are sorted by one of {tuple(IMPORTANCES)}, got {by!r}')
    backbone = find_backbone(model)
    if backbone.subnet is not None:
        raise ValueError(
            'a static subnet has no channels to choose from; sort those of the supernet (the '
            'backbone without subnet=), and cut the subnet out of the sorted weights'
        )
    layers = [
        (
            layer,
            backbone.get_submodule(layer.conv),
            layer.norm and backbone.get_submodule(layer.norm),
        )
        for layer in backbone.layers_of_units
    ]
    importance: dict[str, Tensor] = {}
    for layer, conv, norm in layers:
        if by == 'bn' and norm is None:
            raise ValueError(
                f"{layer.conv} has no normalisation whose scale could be compared; use by='l1' or "
                "by='l2'"
            )
        of_layer = IMPORTANCES[by](conv, norm)
        importance[layer.outputs] = importance.get(layer.outputs, 0) + of_layer

    readers = dict(_linear_readers(model, backbone))
    kept = set() if fresh_head else set(backbone.feature_units()) - readers.keys()
    orders = {
        unit: value.argsort(descending=True, stable=True)
        for unit, value in importance.items()
        if unit not in kept
    }
    for layer, conv, norm in layers:
        if layer.outputs in orders:
            order = orders[layer.outputs]
            for tensor in (conv.weight, conv.bias, *_channelwise(norm)):
                if tensor is not None:
                    tensor.copy_(tensor[order])
        if conv.groups == 1 and layer.inputs in orders:
            conv.weight.copy_(conv.weight[:, orders[layer.inputs]])
    for unit, linear in readers.items():
        order = orders[unit]
        by_channel = linear.weight.unflatten(1, (len(order), -1))  # VGG's reads many pixels of each
        linear.weight.copy_(by_channel[:, order].flatten(1))
    return orders


def _linear_readers(
    model: nn.Module, backbone: SlimmableBackbone
) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers that read a unit's channels, and nothing else."""
    neck, fc = getattr(model, 'neck', None), getattr(getattr(model, 'head', None), 'fc', None)
    pooling = neck is not None and not list(neck.parameters())
    if pooling and isinstance(fc, nn.Linear) and fc.in_features == backbone.out_channels[-1]:
        yield backbone.feature_units()[-1], fc


def _channelwise(norm: nn.Module | None) -> tuple[Tensor, ...]:
    return () if norm is None else (norm.weight, norm.bias, norm.running_mean, norm.running_var)
