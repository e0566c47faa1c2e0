"""Prefix slicing: making layers small, and loading full-width weights into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter

from torch import Tensor, nn


class SliceError(ValueError):
    """Weights that are neither a subnet's own nor those of its supernet."""


def prefix(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The first ``shape[d]`` entries of every dimension ``d``, as a copy."""
    return tensor[tuple(slice(0, size) for size in shape)].clone()


def shrink_conv_(conv: nn.Module, inputs: int, outputs: int) -> None:
    """Keep the first ``outputs`` filters and ``inputs`` input channels, in place."""
    if conv.groups > 1:  # depthwise
        conv.groups, kernel_inputs = outputs, 1
    else:
        kernel_inputs = inputs
    _cut(conv, 'weight', (outputs, kernel_inputs, *conv.kernel_size))
    if isinstance(getattr(conv, 'bias', None), Tensor):  # some deformable ones have none
        _cut(conv, 'bias', (outputs,))
    conv.in_channels, conv.out_channels = inputs, outputs
    for offsets in conv.children():  # of a deformable convolution
        shrink_conv_(offsets, inputs, offsets.out_channels)


def shrink_linear_(linear: nn.Linear, inputs: int) -> None:
    """Keep the first ``inputs`` inputs, in place."""
    _cut(linear, 'weight', (linear.out_features, inputs))
    linear.in_features = inputs


def shrink_norm_(norm: nn.Module, width: int) -> None:
    """Keep the first ``width`` channels of a batch or group normalisation, in place.

    Raises:
        SliceError: If the groups of a group normalisation do not divide the width.
    """
    if width % getattr(norm, 'num_groups', 1):
        raise SliceError(
            f'a normalisation in {norm.num_groups} groups cannot have {width} channels; give a '
            f'subnet whose widths are multiples of {norm.num_groups}'
        )
    for name, tensor in norm.state_dict().items():
        if tensor.dim():
            _cut(norm, name, (width,))
    setattr(norm, 'num_channels' if hasattr(norm, 'num_groups') else 'num_features', width)


def _cut(module: nn.Module, name: str, shape: Sequence[int]) -> None:
    replace_(module, name, prefix(getattr(module, name).detach(), shape))


def replace_(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor of another shape in the place of a parameter or buffer."""
    old = getattr(module, name)
    if isinstance(old, nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=old.requires_grad)
    setattr(module, name, tensor)


def slice_on_load(
    model: nn.Module,
    full_shapes: Mapping[str, Sequence[int]],
    kept: Mapping[str, tuple[int, Tensor]] | None = None,
) -> None:
    """Let ``model`` load full-width weights: those of these names are cut to its own shapes.

    Args:
        model: A model with (some) small layers.
        full_shapes: Parameter or buffer name in ``model`` -> its shape in the supernet.
        kept: Name -> a dimension, and the indices kept along it if they are not the first ones.

    Raises:
        SliceError: When loading, if a tensor has neither the small nor the full shape.
    """
    cuts: dict[str, dict[str, tuple]] = {}
    for name, shape in full_shapes.items():
        layer, _, key = name.rpartition('.')
        # by the module that holds the layer: SyncBN is exchanged for BN where it is not distributed
        holder, _, child = layer.rpartition('.')
        cuts.setdefault(holder, {})[f'{child}.{key}'] = tuple(shape), (kept or {}).get(name)
    for name, of_module in cuts.items():
        module = model.get_submodule(name)
        module.register_load_state_dict_pre_hook(partial(_slice_state, cuts=of_module))


def _slice_state(module, state_dict, prefix_, *_, cuts: Mapping[str, tuple]):
    for key, (full, kept) in cuts.items():
        name, own = prefix_ + key, attrgetter(key)(module)
        given = state_dict.get(name)
        if given is None or given.shape == own.shape:
            continue
        if tuple(given.shape) != full:
            expected = f'{tuple(own.shape)} (its own weights)'
            if tuple(own.shape) != full:
                expected += f' or {full} (its supernet, to be sliced)'
            raise SliceError(
                f'cannot load {name}: the checkpoint has shape {tuple(given.shape)}; this subnet '
                f'expects {expected}. The checkpoint is of another subnet or another backbone width'
            )
        if kept is not None:
            dim, indices = kept
            given = given.index_select(dim, indices.to(given.device))
        state_dict[name] = prefix(given, own.shape)
