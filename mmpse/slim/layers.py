"""Layers: modules whose channels can be told apart, and what can be told of one by itself."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd


def is_conv(layer: nn.Module) -> bool:
    """A convolution of images, or a deformable one that looks like it."""
    weight = layer._parameters.get('weight')
    return (
        weight is not None
        and weight.dim() == 4
        and all(hasattr(layer, key) for key in ('in_channels', 'out_channels', 'groups'))
        and not (isinstance(layer, _ConvTransposeNd) and layer.groups > 1)
    )


def is_grouped(layer: nn.Module) -> bool:
    """A convolution that keeps groups of channels apart; a depthwise one keeps all."""
    return is_conv(layer) and layer.groups > 1


def is_mixing(layer: nn.Module) -> bool:
    """A layer each of whose outputs is a sum over all input channels."""
    return isinstance(layer, nn.Linear) or (is_conv(layer) and layer.groups == 1)


def is_channelwise(layer: nn.Module) -> bool:
    """A layer without weights between channels, whose number of channels is that of its tensors."""
    if isinstance(layer, (_NormBase, nn.GroupNorm)):
        return any(t is not None for t in (*layer._parameters.values(), *layer._buffers.values()))
    if isinstance(layer, nn.PReLU):
        return layer.num_parameters > 1
    # SSD's: what a masked channel adds to its norm over channels is zero
    return type(layer).__name__ == 'L2Norm' and hasattr(layer, 'n_dims')


def step_of(layer: nn.Module) -> int:
    """Channels that only go together: a group."""
    if is_grouped(layer):
        return layer.in_channels // layer.groups
    return layer.num_channels // layer.num_groups if isinstance(layer, nn.GroupNorm) else 1


def outputs_of(layer: nn.Module) -> int:
    """Output channels of a layer: the rows of its weight, if it has one of these.

    Some put out less, such as the best of several centres of each class.
    """
    if is_mixing(layer) or is_grouped(layer):
        return layer.weight.shape[1 if isinstance(layer, _ConvTransposeNd) else 0]
    return max(t.numel() for t in layer.state_dict().values())


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> layer, of all layers whose channels can be told apart."""
    return {
        name: m
        for name, m in model.named_modules()
        if is_mixing(m) or is_grouped(m) or is_channelwise(m)
    }


def inner_layers(layer: nn.Module) -> list[nn.Module]:
    """Layers that a layer feeds with its own input: the offsets of a deformable convolution."""
    return [child for child in layer.children() if is_conv(child)]


def carriers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module without weights that notes how many channels it puts out."""
    return {
        name: m
        for name, m in model.named_modules()
        if isinstance(getattr(m, 'out_channels', None), int)
        and not any(True for _ in m.parameters())
    }


def channel_dim(x: Tensor, layer: nn.Module | None = None) -> int:
    """Which dimension of a tensor holds channels: 1 of images and vectors, the last of tokens.

    A layer that reads the tensor knows better: 1, the last for a linear one.
    """
    tokens = x.dim() == 3 if layer is None else isinstance(layer, nn.Linear)
    return x.dim() - 1 if tokens else 1


def loose_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Name and tensor of parameters and buffers of several values that belong to no layer.

    Those of a LayerNorm or of attention are none: what they meet is mixed, with or without them.
    """
    layers = layers_of(model)
    inside = {id(m) for layer in layers.values() for m in (layer, *inner_layers(layer))}
    return [
        (f'{name}.{key}' if name else key, tensor)
        for name, module in model.named_modules()
        if id(module) not in inside
        and not isinstance(module, (nn.LayerNorm, nn.MultiheadAttention))
        for key, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None and tensor.is_floating_point() and tensor.numel() > 1
    ]
