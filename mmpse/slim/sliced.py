"""A part run group by group, each through the slices of weights that its subnet keeps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmpse.space import Subnet

from .cutting import LayerCut, kept, swapped, take, untracked
from .functions import Slices, interleave, is_channels_last, widen
from .layers import channel_dim
from .parts import Part, batch_of
from .watch import exchanged, map_tensors, tensors_in


@contextmanager
def sliced(
    part: Part, subnets: Sequence[Subnet], cuts: Sequence[Mapping[str, LayerCut]]
) -> Iterator[None]:
    """Run a part so for the time of a ``with`` block.

    Args:
        subnets: The subnet of each group.
        cuts: What each keeps of every layer.
    """
    run = partial(_run, part, subnets, cuts, part.module.forward)
    # weights are swapped while it runs, which a trace does not see
    with exchanged(part.module, torch.compiler.disable(run)):
        yield


def _run(
    part: Part,
    subnets: Sequence[Subnet],
    cuts: Sequence[Mapping[str, LayerCut]],
    forward: Callable,
    *args,
    **kwargs,
) -> Any:
    part.ran = True
    batch = batch_of(args, kwargs, len(subnets))
    weights = {
        name: Slices.apply(layer.weight, [c[name].tensors.get('weight', {}) for c in cuts])
        for name, layer, _ in part.layers
        if getattr(layer, 'weight', None) is not None and layer.weight.dim() > 1
    }
    outputs = []
    for g, subnet in enumerate(subnets):

        def of_group(k: int, x: Tensor, g: int = g, subnet: Subnet = subnet) -> Tensor:
            if not x.dim() or len(x) != batch:
                return x
            own, side = x[g :: len(subnets)], part.inputs.get(k, ())
            if any(s.unit for s in side):
                own = take(own, {channel_dim(own): kept(side, subnet)})
            if len(subnets) == 1:
                return own
            last = x.dim() == 4 and is_channels_last(x)
            layout = torch.channels_last if last else torch.contiguous_format
            return own.clone(memory_format=layout)  # some layers write into their inputs

        own_args, own_kwargs = map_tensors(of_group, (args, kwargs))
        own = {name: w[g] for name, w in weights.items()}
        with ExitStack() as stack:
            stack.enter_context(swapped(part.layers, cuts[g], own))
            stack.enter_context(untracked(norm for norm, _ in part.norms))
            outputs.append(forward(*own_args, **own_kwargs))
    return _merged(part, subnets, outputs, batch // len(subnets))


def _merged(part: Part, subnets: Sequence[Subnet], outputs: Sequence[Any], share: int) -> Any:
    """The groups' outputs at full width, in the batch's order."""
    leaves = [*map(tensors_in, outputs)]

    def merge(k: int, y: Tensor) -> Tensor:
        if not y.dim() or len(y) != share:
            return y
        side = part.outputs.get(k, ())
        of_groups = zip([leaf[k] for leaf in leaves], subnets, strict=True)
        return interleave([widen(y, side, subnet, channel_dim(y)) for y, subnet in of_groups])

    return map_tensors(merge, outputs[0])
