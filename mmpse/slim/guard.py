"""The guard: a subnet of a new model is run in every way once, and must be one network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmpse.errors import UserError
from mmpse.space import SearchSpace

from .cutting import as_subnet, cut_, kept, take
from .layers import channel_dim, layers_of
from .layout import Layout
from .supernet import EXECUTIONS, Supernet
from .watch import evaluating, tensors_in

TOLERANCE = 1e-3  # of how far a tensor's values lie apart
ROUNDING = 1e-5  # of the largest value


class GuardError(UserError):
    """A model whose subnets are not the same network in every execution."""


@torch.no_grad()
def check(
    model: nn.Module,
    layout: Layout,
    space: SearchSpace,
    images: Tensor,
    run: Callable[[nn.Module, Tensor], Any] | None = None,
    executions: Sequence[str] = EXECUTIONS,
    shared: bool = True,
) -> None:
    """Make sure that subnets compute in a shared pass what they compute alone.

    A random subnet is run in place and in each execution, and every layer's output compared; then
    it shares a batch with the tinynet. Weights, modes and statistics are left as they are.

    Args:
        layout: With parts.
        images: An image that the model takes ``(1, C, H, W)``; a small one saves time. Random
            values take the place of its own.
        run: Runs a model on images and returns everything that it predicts from, raw.
        executions: Those to check.
        shared: Whether subnets will share batches.

    Raises:
        GuardError: If the outputs differ or a run fails, with the first layer where it does.
        ValueError: If a supernet of the model cannot have these units.
    """
    random = np.random.default_rng(0)
    some = space.subnet([random.choice(unit.candidates) for unit in space.units])
    batch = _noise_like(images, 4)
    net = Supernet(model, layout, space)
    with evaluating(model):
        with as_subnet(model, layout, some):
            alone = _Record(model, layout, 'in place', run, batch[:2])
        with as_subnet(model, layout, space.tinynet):
            other = _Record(model, layout, 'in place', run, batch[2:])
        for execution in executions:
            with net.active([some], execution):
                record = _Record(model, layout, execution, run, batch[:2])
            record.compare(alone, some)
            if not shared:
                continue
            with net.active([some, space.tinynet], execution):
                both = _Record(model, layout, execution, run, batch[[0, 2, 1, 3]])
            for g, lone in enumerate((alone, other)):
                for y, expected in zip(both.outputs, lone.outputs):
                    if _differ(_of_group(y, g, expected), expected):
                        raise GuardError(
                            f'two subnets that share a batch of {type(model).__name__} run '
                            f'{execution} compute something else than each alone: its forward '
                            'depends on the other images of a batch, or a part of it does not put '
                            'out images in the first dimension; run one subnet after the other '
                            '(SupernetHook: serial=True)'
                        )


def _of_group(y: Tensor, group: int, expected: Tensor) -> Tensor:
    """What an output of four images, of two groups by turns, has of one group; an output that has
    nothing of each image as it is."""
    sizes = zip(y.shape, expected.shape)
    dim = next((d for d, (size, own) in enumerate(sizes) if size == 2 * own), None)
    if dim is None or y.dim() != expected.dim():
        return y
    return y.unflatten(dim, (4, -1)).movedim(dim, 0)[group::2].movedim(0, dim).flatten(dim, dim + 1)


@torch.no_grad()
def check_cut(
    model: nn.Module,
    layout: Layout,
    widths: Mapping[str, int],
    images: Tensor,
    run: Callable[[nn.Module, Tensor], Any] | None = None,
) -> None:
    """Make sure that a cut model runs, and computes what the subnet computes in place.

    The model is left as it is; ``images`` and ``run`` are as of :func:`check`.

    Raises:
        GuardError: If the outputs differ or a run fails, with the first layer where it does.
    """
    batch = _noise_like(images, 2)
    with evaluating(model):
        with as_subnet(model, layout, widths):
            place = _Record(model, layout, 'in place', run, batch)
        static = cut_(copy.deepcopy(model), layout, widths)
        _Record(static, layout, 'cut', run, batch).compare(place, widths)


def _noise_like(images: Tensor, number: int) -> Tensor:
    generator = torch.Generator(images.device).manual_seed(0)
    shape, like = (number, *images.shape[1:]), dict(device=images.device, dtype=images.dtype)
    return torch.randn(shape, generator=generator, **like)


class _Record:
    """What every layer puts out in a forward, in order, and the model.

    Raises:
        GuardError: If the forward fails.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        how: str,
        run: Callable[[nn.Module, Tensor], Any] | None,
        images: Tensor,
    ) -> None:
        self.model, self.layout, self.how = model, layout, how
        self.layers: list[tuple[str, Tensor]] = []
        try:
            with ExitStack() as stack:
                for name, layer in layers_of(model).items():
                    hook = layer.register_forward_hook(
                        lambda _, __, y, name=name: self.layers.append((name, y.clone()))
                    )
                    stack.enter_context(hook)
                stack.enter_context(torch.random.fork_rng())
                torch.manual_seed(0)  # what a forward draws is the same each time
                outputs = (run or nn.Module.__call__)(model, images)
        except Exception as error:  # whatever the model's forward raises
            last = self.layers[-1][0] if self.layers else 'its first layer'
            raise GuardError(
                f'a subnet of {type(model).__name__} cannot be run {how} '
                f'({type(error).__name__}: {error}), behind {last}; {self._remedy(last, True)}'
            ) from error
        self.outputs = [y for y in tensors_in(outputs) if y.is_floating_point() and y.dim()]

    def compare(self, lone: _Record, widths: Mapping[str, int]) -> None:
        """
        Raises:
            GuardError: If it differs from the subnet that was run alone.
        """
        for (name, y), (_, expected) in zip(self.layers, lone.layers):
            if y.shape != expected.shape and name in self.layout.layers:  # masked: full width
                dim = channel_dim(y, self.model.get_submodule(name))
                y = take(y, {dim: kept(self.layout.layers[name].outputs, widths)})
            if _differ(y, expected):
                raise self._parting(f'at {name}; {self._remedy(name)}')
        for y, expected in zip(self.outputs, lone.outputs):
            if _differ(y, expected):
                last = self.layers[-1][0] if self.layers else ''
                raise self._parting(f'behind {last or "all layers"}; {self._remedy(last, True)}')

    def _parting(self, where: str) -> GuardError:
        return GuardError(
            f'a subnet of {type(self.model).__name__} run {self.how} is not the one that is run '
            f'alone: they part {where}'
        )

    def _remedy(self, name: str, behind: bool = False) -> str:
        """What to do about a layer; ``behind``: about what gets its outputs."""
        sides = self.layout.layers.get(name)
        found = [[s.unit for s in side or () if s.unit] for side in sides or ((), ())]
        units = dict.fromkeys(found[behind] or found[not behind])
        if not units:
            return 'leave the units before it at full width'
        grids = ', '.join(f"'{unit}': dict(ratios=[1.0])" for unit in units)
        other = "execution='sliced', or " if self.how == 'masked' else ''
        return f'use {other}grids={{{grids}}} (mmpse prune: --keep {" ".join(units)})'


def _differ(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return True
    ours, theirs = ours.double(), theirs.double()
    if not theirs.numel():
        return False
    apart = theirs - theirs.mean([d for d in range(theirs.dim()) if d != 1] or [0], keepdim=True)
    allowed = TOLERANCE * apart.abs().max() + ROUNDING * theirs.abs().max()
    return not bool((ours - theirs).abs().max() <= allowed)
