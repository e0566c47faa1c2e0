"""FLOPs and parameters of the subnets of a model."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer, parameter_count
from torch import nn

from mmpse.registry import MODELS
from mmpse.space import Cost, SearchSpace, Subnet

from .fit import with_subnet
from .meta import WeightsOnMeta
from .slimmable import SlimmableBackbone, find_backbone

REFERENCE_SHAPE = (3, 224, 224)


def backbone_costs(
    backbone: SlimmableBackbone, input_shape: Sequence[int] | None = None
) -> dict[str, Cost]:
    """FLOPs and parameters of a supernet's backbone as functions of the widths.

    Args:
        backbone: The supernet.
        input_shape: Shape ``(C, H, W)`` of one image; by default 224 x 224, of as many channels
            as the first layer reads.

    Returns:
        ``{'flops': Cost, 'params': Cost}``; FLOPs are multiply-adds of one image, as mmengine
        counts them in eval mode (a normalisation layer: 2 per element).

    Raises:
        ValueError: If the image is none that the backbone takes.
    """
    channels = backbone.get_submodule(backbone.layers_of_units[0].conv).in_channels
    input_shape = input_shape or (channels, *REFERENCE_SHAPE[1:])
    if len(input_shape) != 3 or input_shape[0] != channels:
        raise ValueError(
            f'input_shape must be (C, H, W) of one image with C={channels} channels, e.g. '
            f'({channels}, 224, 224), got {tuple(input_shape)}'
        )
    space = backbone.search_space
    flops, params = Cost(space.names), Cost(space.names)
    sizes = _output_sizes(backbone, input_shape)

    def add(cost: Cost, of_fullnet: int, *units: str | None) -> None:
        for unit in filter(None, units):
            of_fullnet //= space.fullnet[unit]
        cost.add(of_fullnet, *units)

    for layer in backbone.layers_of_units:
        conv, area = backbone.get_submodule(layer.conv), sizes[layer.conv]
        depthwise = getattr(conv, 'groups', 1) > 1
        sides = (None if depthwise else layer.inputs, layer.outputs)
        add(flops, conv.weight.numel() * area, *sides)
        add(params, conv.weight.numel(), *sides)
        if conv.bias is not None:
            add(params, len(conv.bias), layer.outputs)
        if layer.norm is not None:  # a scale and a shift per channel
            flops.add(2 * area, layer.outputs)
            params.add(2, layer.outputs)
    return dict(flops=flops, params=params)


def _output_sizes(backbone: SlimmableBackbone, input_shape: Sequence[int]) -> dict[str, int]:
    """Pixels that every layer puts out, by its name (a fully connected layer: 1).

    0 where no feature depends on it (a last stage that is not in ``out_indices``).
    """
    twin = copy.deepcopy(backbone).to('meta', torch.float32)
    twin.eval()
    twin.requires_grad_()  # after eval(), which freezes stages
    sizes: dict[str, int] = {}
    layers = {layer.conv: twin.get_submodule(layer.conv) for layer in twin.layers_of_units}
    for name, module in layers.items():
        module.register_forward_hook(
            lambda _, __, y, name=name: sizes.update({name: math.prod(y.shape[2:])})
        )
    features = twin(torch.empty(1, *input_shape, device='meta'))
    sum(feature.sum() for feature in features).backward()
    return {name: 0 if layers[name].weight.grad is None else size for name, size in sizes.items()}


def measure(model: Mapping[str, Any], subnet: Subnet, input_shape: Sequence[int]) -> dict[str, int]:
    """FLOPs and parameters of one subnet of a model, counted by mmengine on the static model.

    Args:
        model: Config of the model.
        subnet: The subnet.
        input_shape: Shape ``(C, H, W)`` of one image.

    Raises:
        ValueError: If the model is a two-stage detector, or its forward needs more than images.
    """
    static = MODELS.build(with_subnet(model, subnet))
    if getattr(static, 'with_roi_head', False):
        raise ValueError(
            f'the FLOPs of {type(static).__name__} depend on the regions that it finds in an '
            'image, so that they cannot be counted; give a budget to the one-stage detector or '
            'the classifier with this backbone, and transfer the subnet'
        )
    try:
        return count(static, input_shape)
    except Exception as error:  # whatever its forward raises
        raise ValueError(
            f'mmengine cannot count the FLOPs of {type(static).__name__}, whose forward on images '
            f'{tuple(input_shape)} alone fails ({type(error).__name__}: {error}). If it needs more '
            'than images, give a budget to the classifier with this backbone, and transfer the '
            'subnet'
        ) from error


def count(model: nn.Module, input_shape: Sequence[int]) -> dict[str, int]:
    """FLOPs (multiply-adds of one image) and parameters of any model, as mmengine counts them.

    Args:
        model: The model; it is left in eval mode.
        input_shape: Shape ``(C, H, W)`` of one image.
    """
    model.eval()
    flops = FlopAnalyzer(model, torch.zeros(1, *input_shape))
    flops.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return dict(flops=int(flops.total()), params=parameter_count(model)[''])


def model_costs(model: Mapping[str, Any], input_shape: Sequence[int]) -> dict[str, Cost]:
    """FLOPs and parameters of a whole model as functions of its backbone's widths.

    What lies outside the backbone depends on the widths of the features alone, and linearly; its
    coefficients are found from mmengine's counts of a few static models, and checked on another.

    Args:
        model: Config of a model with a slimmable backbone.
        input_shape: Shape ``(C, H, W)`` of one image.

    Raises:
        ValueError: If the model's cost is not linear in the widths of its features.
    """
    with WeightsOnMeta():
        supernet = MODELS.build(with_subnet(model, None))
    backbone = find_backbone(supernet)
    space = backbone.search_space
    costs = backbone_costs(backbone, input_shape)
    features = sorted(set(backbone.feature_units()) & set(space.names))

    def rest(widths: Mapping[str, int]) -> dict[str, int]:
        subnet = space.subnet([widths[name] for name in space.names])
        whole, row = measure(model, subnet, input_shape), space.array([subnet])
        return {key: whole[key] - int(cost(row)[0]) for key, cost in costs.items()}

    full, tiny = space.fullnet, space.tinynet
    slopes, base = {}, rest(full)
    for unit in features:
        if tiny[unit] < full[unit]:
            other = rest({**full, unit: tiny[unit]})
            slopes[unit] = {
                key: (base[key] - other[key]) / (full[unit] - tiny[unit]) for key in costs
            }
    for key, cost in costs.items():
        cost.add(base[key] - sum(slopes[u][key] * full[u] for u in slopes))
        for unit, slope in slopes.items():
            cost.add(slope[key], unit)

    counted = measure(model, tiny, input_shape)
    ours = {key: int(cost(space.array([tiny]))[0]) for key, cost in costs.items()}
    if counted != ours:
        raise ValueError(
            f'the cost of {model["type"]} is not linear in the widths of its features: the tinynet '
            f'has {counted}, expected {ours}'
        )
    return costs


def costs_of(space: SearchSpace, costs: Mapping[str, Cost], subnet: Subnet) -> dict[str, int]:
    """The resources of one subnet, by name."""
    return {key: int(cost(space.array([subnet]))[0]) for key, cost in costs.items()}
