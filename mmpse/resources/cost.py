"""FLOPs and parameters of the whole model as functions of its units' widths."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd

from mmpse.slim.layers import layers_of
from mmpse.slim.layout import LayerWidths, Layout, Segment, Side
from mmpse.slim.watch import evaluating, stubbed
from mmpse.space import Cost, SearchSpace

Terms = list[tuple[float, tuple[str, ...]]]  # a sum of multiples of (products of) widths


@torch.no_grad()
def model_cost(
    model: nn.Module,
    layout: Layout,
    space: SearchSpace,
    images: Tensor,
    run: Callable[[Tensor], Any] | None = None,
) -> dict[str, Cost]:
    """FLOPs and parameters of every subnet of a model.

    One forward whose layers compute nothing tells how large their outputs are.

    Args:
        images: One image of the size that FLOPs are counted for, ``(1, C, H, W)``; its values do
            not matter.
        run: Runs the model on images; ``None``: ``model(images)``.

    Returns:
        ``'flops'`` and ``'params'``. FLOPs are multiply-adds, counted as mmengine does:
        convolutions, linear layers, normalisations, resizing and pooling to a size. Attention and
        other products without a layer are not counted; deformable convolutions are, which mmengine
        leaves out.
    """
    flops, params = Cost(space.names), Cost(space.names)
    _count(model, layout, images, run, lambda _, value, *units: flops.add(value, *units))
    layers = layers_of(model)

    counted = 0
    for name, layer in layers.items():
        sides = sides_of_layer(layout, name, layer)
        for key, tensor in layer._parameters.items():
            if tensor is None:
                continue
            counted += tensor.numel()
            if tensor.dim() > 1:
                found = weight_terms(layer, sides)
            elif key == 'bias' or not sides.inputs:
                found = terms(sides.outputs)
            else:
                found = [(tensor.numel(), ())]
            for value, units in found:
                params.add(value, *units)
    params.add(sum(p.numel() for p in model.parameters()) - counted)
    return dict(flops=flops, params=params)


@torch.no_grad()
def layer_costs(
    model: nn.Module, images: Tensor, run: Callable[[Tensor], Any] | None = None
) -> dict[str, dict[str, int]]:
    """FLOPs and parameters of every layer of a model as it is; arguments as of :func:`model_cost`.

    Returns:
        ``'flops'`` and ``'params'`` -> name of a module -> its own; ``''``: pooling and resizing.
    """
    flops: dict[str, float] = {}

    def add(name: str, value: float) -> None:
        flops[name] = flops.get(name, 0) + value

    _count(model, Layout({}, {}), images, run, lambda name, value, *_: add(name, value))
    params = {
        name: sum(p.numel() for p in module.parameters(recurse=False))
        for name, module in model.named_modules()
    }
    return dict(flops={name: round(value) for name, value in flops.items()}, params=params)


def _count(
    model: nn.Module,
    layout: Layout,
    images: Tensor,
    run: Callable[[Tensor], Any] | None,
    add: Callable[..., None],
) -> None:
    """Call ``add(layer, value, *units)`` for every product of widths in the sum of FLOPs."""
    resizes = iter(layout.resizes)

    def see(name: str, layer: Any, x: Tensor, y: Tensor) -> None:
        if not name and layer[0] is F.layer_norm:  # over channels, so that none of them is a unit's
            add(name, 5 * x.numel())
            return
        if not name:
            each = _resizing(*layer, x, y) * len(x)
            for value, units in terms(next(resizes, (Segment(None, x.shape[1]),))):
                add(name, value * each, *units)
            return
        sides = sides_of_layer(layout, name, layer)
        if isinstance(layer, nn.Linear):
            area = x.numel() // x.shape[-1]
        elif isinstance(layer, _ConvTransposeNd):
            area = len(x) * math.prod(x.shape[2:])
        else:
            area = y.numel() // sum(s.positions for s in sides.outputs)
        for value, units in weight_terms(layer, sides):
            add(name, value * area * _operations(layer), *units)

    with evaluating(model), stubbed(model, see):
        (run or model)(images)


def terms(side: Side) -> Terms:
    """The positions of a side as a sum of multiples of widths."""
    return [(s.positions, ()) if s.unit is None else (s.repeat, (s.unit,)) for s in side]


def weight_terms(layer: nn.Module, sides: LayerWidths) -> Terms:
    """The entries of a layer's weight as a sum of products of widths."""
    weight = layer._parameters.get('weight')
    if sides.inputs is None:
        positions = sum(s.positions for s in sides.outputs)
        each = 1 if weight is None else weight.numel() / positions
        return [(value * each, units) for value, units in terms(sides.outputs)]
    kernel = math.prod(weight.shape[2:])
    return [
        (a * b * kernel, one + other)
        for a, one in terms(sides.outputs)
        for b, other in terms(sides.inputs)
    ]


def _operations(layer: nn.Module) -> int:
    """Operations for each entry of a weight and each output pixel, as mmengine counts them."""
    affine = layer._parameters.get('weight') is not None
    if isinstance(layer, (nn.GroupNorm, _NormBase)):
        return (1 if getattr(layer, 'track_running_stats', False) else 4) + affine
    return 0 if isinstance(layer, nn.PReLU) or hasattr(layer, 'n_dims') else 1


def _resizing(function: Callable, arguments: dict[str, Any], x: Tensor, y: Tensor) -> int:
    """Operations for each channel of an image, as mmengine counts them."""
    if function is F.adaptive_avg_pool2d:
        return math.prod(x.shape[2:])
    mode = arguments.get('mode', 'nearest')
    return dict(nearest=1, bilinear=4).get(mode, 0) * math.prod(y.shape[2:])


def sides_of_layer(layout: Layout, name: str, layer: nn.Module) -> LayerWidths:
    """The sides of a layer, whether a unit runs through it or not."""
    if name in layout.layers:
        return layout.layers[name]
    if isinstance(layer, nn.Linear):
        outputs, inputs = layer.weight.shape
    elif hasattr(layer, 'out_channels'):
        inputs, outputs = layer.in_channels, layer.out_channels
        if layer.groups > 1:
            return LayerWidths(None, (Segment(None, outputs),))
    else:
        tensors = (*layer._parameters.values(), *layer._buffers.values())
        width = max(t.numel() for t in tensors if t is not None)
        return LayerWidths(None, (Segment(None, width),))
    return LayerWidths((Segment(None, inputs),), (Segment(None, outputs),))
