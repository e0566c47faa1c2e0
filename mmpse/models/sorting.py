"""Sorting channels by importance, so that a prefix keeps the best ones."""

from __future__ import annotations

from collections.abc import Callable

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

    The function that the full network computes stays the same. A classifier's ``head.fc`` behind a
    pooling neck is permuted with the feature that it reads. Other features that leave the backbone
    (of a backbone alone, of a detector or a segmentor) keep the order of their channels.

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
        (layer, backbone.get_submodule(layer.conv), backbone._norm(layer))
        for layer in backbone.layers_of_units
    ]
    importance: dict[str, Tensor] = {}
    for layer, conv, norm in layers:
        if layer.outputs is None:
            continue
        if by == 'bn' and norm is None:
            raise ValueError(
                f"{layer.conv} has no normalisation whose scale could be compared; use by='l1' or "
                "by='l2'"
            )
        of_layer = IMPORTANCES[by](conv, norm)
        importance[layer.outputs] = importance.get(layer.outputs, 0) + of_layer

    head = _linear_head(model, backbone)
    features = backbone.feature_units()
    kept = set() if fresh_head else set(features if head is None else features[:-1])
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
        if layer.inputs in orders and getattr(conv, 'groups', 1) == 1:  # not depthwise
            _permute_inputs(conv.weight, orders[layer.inputs])
    if head is not None and features[-1] in orders:
        _permute_inputs(head.weight, orders[features[-1]])
    return orders


def _linear_head(model: nn.Module, backbone: SlimmableBackbone) -> nn.Linear | None:
    """A classifier's linear layer, if nothing but a pooling lies between it and the backbone."""
    neck, fc = getattr(model, 'neck', None), getattr(getattr(model, 'head', None), 'fc', None)
    pooling = neck is not None and not list(neck.parameters())
    linear = isinstance(fc, nn.Linear) and fc.in_features == backbone.out_channels[-1]
    return fc if pooling and linear else None


def _permute_inputs(weight: Tensor, order: Tensor) -> None:
    by_channel = weight.unflatten(1, (len(order), -1))  # VGG's classifier reads 7x7 of each
    weight.copy_(by_channel[:, order].flatten(1, 2))


def _channelwise(norm: nn.Module | None) -> tuple[Tensor, ...]:
    return () if norm is None else (norm.weight, norm.bias, norm.running_mean, norm.running_var)
