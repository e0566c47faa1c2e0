"""Cutting: which entries of every tensor a subnet keeps, and making a model small by them.

One description (:func:`cut_of`) serves the static model, the pass of a subnet through the full
model, and the loading of full-width weights, so that all three are the same network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from mmpse.errors import UserError

from .layers import is_grouped, step_of
from .layout import LayerWidths, Layout, Side

# methods that make one layer of the branches of a block, as RepVGG's; and what of them it repeats
MERGING = 'switch_to_deploy', 'reparameterize'
BRANCH = 'in_channels', 'out_channels', 'groups'
Keep = int | Tensor  # the first so many entries of a dimension, or their numbers


class CutError(UserError):
    """Weights that are neither a subnet's own nor those of its full model."""


class LayerCut(NamedTuple):
    """What a subnet keeps of a layer."""

    tensors: dict[str, dict[int, Keep]]  # name of a parameter or buffer -> dimension -> of it
    numbers: dict[str, int]  # attributes that count channels

    def to(self, device: torch.device) -> LayerCut:
        """The same with its numbers on a device, so that no pass has to copy them there."""
        tensors = {
            name: {d: k if isinstance(k, int) else k.to(device) for d, k in dims.items()}
            for name, dims in self.tensors.items()
        }
        return self._replace(tensors=tensors)


def kept(side: Side, widths: Mapping[str, int]) -> Keep:
    """Positions of a side that a subnet keeps: of every unit its first channels."""
    if len(side) == 1:
        unit, channels, repeat = side[0]
        return widths.get(unit, channels) * repeat
    used = mask_of(side, widths)
    return len(used) if used.all() else used.nonzero()[:, 0]


def mask_of(side: Side, widths: Mapping[str, int]) -> Tensor:
    """Which positions of a side subnets of these widths use, bool ``(positions,)``."""
    runs = []
    for unit, channels, repeat in side:
        used = torch.arange(channels, device='cpu') < widths.get(unit, channels)
        runs.append(used.repeat_interleave(repeat))
    return torch.cat(runs)


def count(keep: Keep) -> int:
    """How many entries are kept."""
    return keep if isinstance(keep, int) else len(keep)


def take(tensor: Tensor, dims: Mapping[int, Keep]) -> Tensor:
    """The kept entries; a view where they are the first ones."""
    for dim, keep in dims.items():
        if isinstance(keep, int):
            tensor = tensor.narrow(dim, 0, keep)
        else:
            tensor = tensor.index_select(dim, keep.to(tensor.device))
    return tensor


def dense(tensor: Tensor, dims: Mapping[int, Keep]) -> Tensor:
    """The kept entries without gaps in memory, in the layout of the whole tensor."""
    nchw = tensor.dim() != 4 or tensor.is_contiguous()
    layout = torch.contiguous_format if nchw else torch.channels_last
    return take(tensor, dims).contiguous(memory_format=layout)


def dims_of(layer: nn.Module) -> tuple[int, int | None]:
    """The dimensions of a layer's weight that hold outputs and inputs (or none)."""
    if isinstance(layer, _ConvTransposeNd):
        return 1, 0
    mixing = isinstance(layer, nn.Linear) or (hasattr(layer, 'groups') and layer.groups == 1)
    return 0, 1 if mixing else None


def cut_of(layer: nn.Module, sides: LayerWidths, widths: Mapping[str, int]) -> LayerCut:
    """What a subnet keeps of a full-width layer."""
    outputs = kept(sides.outputs, widths)
    inputs = outputs if sides.inputs is None else kept(sides.inputs, widths)
    into, out_of = dims_of(layer)[::-1]
    tensors: dict[str, dict[int, Keep]] = {}
    for name, tensor in (*layer._parameters.items(), *layer._buffers.items()):
        if tensor is None or not tensor.dim():
            continue
        dims = {out_of if tensor.dim() > 1 else 0: outputs}
        if tensor.dim() > 1 and into is not None:
            dims[into] = inputs
        tensors[name] = {d: k for d, k in sorted(dims.items()) if count(k) < tensor.shape[d]}
    tensors = {name: dims for name, dims in tensors.items() if dims}
    inner, outer = count(inputs), count(outputs)
    if is_grouped(layer):  # its sides are those of its outputs
        inner = outer * layer.in_channels // layer.out_channels
    numbers = dict(in_features=inner, in_channels=inner)
    if any(s.unit for s in sides.outputs):  # else they stay, whatever they count
        own = 'out_features out_channels num_features num_channels num_parameters n_dims'
        numbers.update(dict.fromkeys(own.split(), outer))
    if is_grouped(layer):
        numbers['groups'] = inner // step_of(layer)
    if isinstance(layer, nn.GroupNorm):
        numbers['num_groups'] = outer // step_of(layer)
    return LayerCut(tensors, {k: v for k, v in numbers.items() if hasattr(layer, k)})


def cut_(model: nn.Module, layout: Layout, widths: Mapping[str, int]) -> nn.Module:
    """Make a full-width model the static network of a subnet, in place.

    It keeps the classes and names of its modules. It loads its own weights, and those of the full
    model, which are cut as they load.

    Raises:
        CutError: If the model has not the layers of the layout, or a width is impossible.
    """
    check_widths(layout, widths)
    for name, layer, sides in layers_in(model, layout):
        cut = cut_of(layer, sides, widths)
        shapes = {key: tuple(getattr(layer, key).shape) for key in cut.tensors}
        for key, dims in cut.tensors.items():
            old = getattr(layer, key)
            new = take(old.detach(), dims).clone()
            if isinstance(old, nn.Parameter):
                new = nn.Parameter(new, old.requires_grad)
            setattr(layer, key, new)
        if shapes:
            hook = partial(_cut_on_load, shapes=shapes, cuts=cut.tensors)
            layer.register_load_state_dict_pre_hook(hook)
        before = {key: getattr(layer, key) for key in cut.numbers}
        repeating = list(_repeating(model, name, layer))
        for key, value in cut.numbers.items():
            setattr(layer, key, value)
            for module in repeating:
                if vars(module).get(key) == before[key]:
                    setattr(module, key, value)
    return model


def _repeating(model: nn.Module, name: str, layer: nn.Module) -> Iterator[nn.Module]:
    """Modules around a layer that repeat its numbers of channels."""
    parent = model.get_submodule(name.rpartition('.')[0])
    if getattr(parent, 'conv', None) is layer:  # mmcv's ConvModule
        yield parent
    while name := name.rpartition('.')[0]:
        block = model.get_submodule(name)
        if any(hasattr(block, method) for method in MERGING):
            own = {key: vars(block)[key] for key in BRANCH if key in vars(block)}
            if 'groups' in own and all(getattr(layer, key, None) == n for key, n in own.items()):
                yield block
            return


@contextmanager
def as_subnet(model: nn.Module, layout: Layout, widths: Mapping[str, int]) -> Iterator[None]:
    """For the time of a ``with`` block the full model is the static network of a subnet, in place.

    BatchNorms have copies of their statistics, so that what is recalibrated inside is forgotten.
    """
    check_widths(layout, widths)
    layers = list(layers_in(model, layout))
    device = next(model.parameters()).device
    cuts = {name: cut_of(layer, sides, widths).to(device) for name, layer, sides in layers}
    # in memory of their own: a convolution would copy views anew in every forward
    weights = {
        name: dense(layer._parameters['weight'], cuts[name].tensors['weight'])
        for name, layer, _ in layers
        if 'weight' in cuts[name].tensors
    }
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    before = [dict(norm._buffers) for norm in norms]
    try:
        with swapped(layers, cuts, weights):
            for norm in norms:
                for key, tensor in norm._buffers.items():
                    norm._buffers[key] = None if tensor is None else tensor.clone()
            yield
    finally:
        for norm, buffers in zip(norms, before, strict=True):
            norm._buffers.update(buffers)


@contextmanager
def swapped(
    layers: Iterable[tuple[str, nn.Module, LayerWidths]],
    cuts: Mapping[str, LayerCut],
    weights: Mapping[str, Tensor] | None = None,
) -> Iterator[None]:
    """Let layers use what a subnet keeps of them; gradients reach the full-width parameters.

    Args:
        layers: Name, layer and sides.
        cuts: Name -> what is kept.
        weights: Name -> the kept weight, where it was taken already.
    """
    before, weights = [], weights or {}
    try:
        for name, layer, _ in layers:
            parameters, buffers = dict(layer._parameters), dict(layer._buffers)
            numbers = {key: getattr(layer, key) for key in cuts[name].numbers}
            before.append((layer, parameters, buffers, numbers))
            for key, dims in cuts[name].tensors.items():
                own = layer._parameters if key in parameters else layer._buffers
                if key != 'weight' or name not in weights:
                    own[key] = _for(layer, take(own[key], dims))
            if name in weights:
                layer._parameters['weight'] = _for(layer, weights[name])
            layer.__dict__.update(cuts[name].numbers)
        yield
    finally:
        for layer, parameters, buffers, numbers in before:
            layer._parameters.update(parameters)
            layer._buffers.update(buffers)
            layer.__dict__.update(numbers)


def _for(layer: nn.Module, tensor: Tensor) -> Tensor:
    """A view as the layer can take it: others' operators want their own memory."""
    stock = isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
    return tensor if stock or tensor.dim() < 2 else tensor.contiguous()


@contextmanager
def untracked(norms: Iterable[_BatchNorm]) -> Iterator[None]:
    """Let BatchNorms that train normalise by their batch alone, and leave running statistics."""
    before = []
    for norm in norms:
        if norm.training and norm.track_running_stats:
            before.append((norm, norm.running_mean, norm.running_var))
            norm._buffers['running_mean'] = norm._buffers['running_var'] = None
            norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, mean, variance in before:
            norm.track_running_stats = True
            norm._buffers['running_mean'], norm._buffers['running_var'] = mean, variance


def layers_in(model: nn.Module, layout: Layout) -> Iterator[tuple[str, nn.Module, LayerWidths]]:
    """Name, layer and sides of a model's layers that units run through.

    Raises:
        CutError: If the model has not the layers of the layout.
    """
    modules = dict(model.named_modules())
    for name, sides in layout.layers.items():
        layer = modules.get(name)
        width = sum(s.positions for s in sides.outputs)
        weight = None if layer is None else getattr(layer, 'weight', None)
        have = width if weight is None else weight.shape[dims_of(layer)[0]]
        if layer is None or have != width:
            found = 'there is none of that name' if layer is None else f'it has {have}'
            raise CutError(
                f'this {type(model).__name__} does not fit the subnet: its layer {name} should '
                f'have {width} outputs, {found}; give the config that the subnet was made from'
            )
        yield name, layer, sides


def check_widths(layout: Layout, widths: Mapping[str, int]) -> None:
    """
    Raises:
        CutError: If units are missing or unknown, or a width is not possible.
    """
    missing, unknown = layout.units.keys() - widths.keys(), widths.keys() - layout.units.keys()
    if missing or unknown:
        raise CutError(
            f'the widths do not fit the units: missing {sorted(missing)[:5]}, unknown '
            f'{sorted(unknown)[:5]}; expected one width for each of {len(layout.units)} units'
        )
    for name, unit in layout.units.items():
        if not 0 < widths[name] <= unit.width or widths[name] % unit.step:
            raise CutError(
                f'the width of {name} is {widths[name]}; expected 1 to {unit.width}, in multiples '
                f'of {unit.step}'
            )


def _cut_on_load(
    layer: nn.Module,
    state: dict[str, Tensor],
    prefix: str,
    *_,
    shapes: Mapping[str, tuple[int, ...]],
    cuts: Mapping[str, Mapping[int, Keep]],
) -> None:
    """Cut a layer's full-width tensors in a state dict that is being loaded."""
    for key, shape in shapes.items():
        tensor = state.get(prefix + key)
        if tensor is not None and tuple(tensor.shape) == shape:
            state[prefix + key] = take(tensor, cuts[key]).clone()
