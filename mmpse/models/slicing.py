"""Prefix slicing: making layers small, and loading full-width weights into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from torch import Tensor, nn


class SliceError(ValueError):
    """Weights that are neither a subnet's own nor those of its supernet."""


def prefix(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The first ``shape[d]`` entries of every dimension ``d``, as a copy."""
    return tensor[tuple(slice(0, size) for size in shape)].clone()


def shrink_conv_(conv: nn.Conv2d, inputs: int, outputs: int) -> None:
    """Keep the first ``outputs`` filters and ``inputs`` input channels, in place."""
    if conv.groups > 1:  # depthwise
        conv.groups, kernel_inputs = outputs, 1
    else:
        kernel_inputs = inputs
    _cut(conv, 'weight', (outputs, kernel_inputs, *conv.kernel_size))
    if conv.bias is not None:
        _cut(conv, 'bias', (outputs,))
    conv.in_channels, conv.out_channels = inputs, outputs


def shrink_linear_(linear: nn.Linear, inputs: int) -> None:
    """Keep the first ``inputs`` inputs, in place."""
    _cut(linear, 'weight', (linear.out_features, inputs))
    linear.in_features = inputs


def shrink_batch_norm_(norm: nn.Module, width: int) -> None:
    """Keep the first ``width`` channels of a batch normalisation, in place."""
    for name in ('weight', 'bias', 'running_mean', 'running_var'):
        if getattr(norm, name) is not None:
            _cut(norm, name, (width,))
    norm.num_features = width


def _cut(module: nn.Module, name: str, shape: Sequence[int]) -> None:
    tensor = getattr(module, name)
    small = prefix(tensor.detach(), shape)
    if isinstance(tensor, nn.Parameter):
        small = nn.Parameter(small, requires_grad=tensor.requires_grad)
    setattr(module, name, small)


def slice_on_load(model: nn.Module, full_shapes: Mapping[str, Sequence[int]]) -> None:
    """Let ``model`` load full-width weights: those of these names are cut to its own shapes.

    Args:
        model: A model with (some) small layers.
        full_shapes: Parameter or buffer name in ``model`` -> its shape in the supernet.

    Raises:
        SliceError: When loading, if a tensor has neither the small nor the full shape.
    """
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in full_shapes.items():
        module, _, key = name.rpartition('.')
        shapes.setdefault(module, {})[key] = tuple(shape)
    for name, of_module in shapes.items():
        module = model.get_submodule(name)
        module.register_load_state_dict_pre_hook(partial(_slice_state, full_shapes=of_module))


def _slice_state(module, state_dict, prefix_, *_, full_shapes: Mapping[str, tuple[int, ...]]):
    for key, full in full_shapes.items():
        name, own = prefix_ + key, getattr(module, key)
        given = state_dict.get(name)
        if given is None or given.shape == own.shape:
            continue
        if tuple(given.shape) != full:
            raise SliceError(
                f'cannot load {name}: the checkpoint has shape {tuple(given.shape)}; this subnet '
                f'expects {tuple(own.shape)} (its own weights) or {full} (its supernet, to be '
                'sliced). The checkpoint is of another subnet or another backbone width'
            )
        state_dict[name] = prefix(given, own.shape)
