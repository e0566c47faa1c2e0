"""Parts of a model (backbone, neck, heads) that take and give whole images."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmpse.errors import UserError

from .cutting import layers_in
from .layout import Layout
from .plain import not_plain
from .watch import tensors_in


class Part:
    """A part of a model, and what a pass of subnets has to know of it.

    Attributes:
        name, module: The part.
        inputs, outputs, leaky_outputs: See :class:`mmpse.slim.layout.Boundary`.
        layers: Name, layer and sides of the layers in it that units run through.
        norms: The BatchNorms in it, with their sides or ``None``.
        leaky: Layers whose inputs a masked pass has to mask, with their sides.
        not_plain: Rows of ``layers`` that a masked pass has to run subnet by subnet.
        ran: Whether it has run since subnets became active.
    """

    def __init__(self, model: nn.Module, layout: Layout, name: str) -> None:
        self.name = name
        self.module = model.get_submodule(name)
        self.inputs, self.outputs, self.leaky_outputs = layout.parts[name]
        own = {id(m) for m in self.module.modules()}
        self.layers = [row for row in layers_in(model, layout) if id(row[1]) in own]
        sides = {id(layer): s for _, layer, s in self.layers}
        self.norms = [
            (m, sides.get(id(m))) for m in self.module.modules() if isinstance(m, _BatchNorm)
        ]
        self.leaky = [(layer, s) for name, layer, s in self.layers if name in layout.leaky]
        self.not_plain = not_plain(self.layers)
        self.ran = False


def batch_of(args: Sequence, kwargs: Mapping[str, Any], groups: int) -> int:
    """Images of the batch in a part's arguments.

    Raises:
        ValueError: If so many groups cannot share it.
    """
    sizes = [len(x) for x in tensors_in((args, kwargs)) if x.dim() > 1]
    if not sizes or sizes[0] % groups:
        raise UserError(
            f'a batch of {sizes[0] if sizes else 0} images cannot be shared by {groups} subnets; '
            'choose a batch size that the number of subnets divides'
        )
    return sizes[0]
