"""Many subnets in one pass of a stock model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmpse.space import SearchSpace, Subnet

from .cutting import LayerCut, cut_of, kept, layers_in, swapped, take, untracked
from .functions import ChunkedBatchNorm, Slices, interleave, is_channels_last
from .layout import Layout, Side
from .plain import Row, by_subnet, not_plain
from .units import channel_dim

EXECUTIONS = ('sliced', 'masked')
CACHED = 64  # subnets whose cuts are kept: fullnet and tinynet come in every iteration


class Supernet:
    """A stock model whose batches can be shared by subnets.

    While subnets are active, image ``i`` of a batch runs through subnet ``i % n``. The parts of the
    model (backbone, neck, heads) take and give full-width tensors, zero in the channels that a
    subnet lacks, so that losses and wrappers need to know nothing. The model keeps its classes,
    names and parameters: only the forwards of its parts are exchanged, for that time.

    Args:
        model: The full-width model.
        layout: Its layout, with the parts that hold the units.
        space: The search space of the layout.

    Attributes:
        held: Units that must stay at full width, since a layer of theirs runs outside the parts (on
            the regions of a two-stage detector).
        ran: Parts that have run since the subnets became active.

    Raises:
        ValueError: If the layout has no parts, or the model normalises across processes.
    """

    def __init__(self, model: nn.Module, layout: Layout, space: SearchSpace) -> None:
        if not layout.parts:
            raise ValueError('a supernet needs a layout with parts; give parts= to find_units')
        self.model = model
        self.layout = layout
        self.space = space
        self.parts = {name: _Part(self, name) for name in layout.parts}
        inside = {id(m) for part in self.parts.values() for m in part.module.modules()}
        self.held: set[str] = set()
        for _, layer, sides in layers_in(model, layout):
            if id(layer) not in inside and any(True for _ in layer.parameters()):
                self.held |= {s.unit for s in sides.outputs if s.unit is not None}
        for name, module in model.named_modules():
            if isinstance(module, nn.SyncBatchNorm) and id(module) in inside:
                raise ValueError(
                    f'{name} normalises across processes, but every process has its own subnets; '
                    'use BatchNorm (mmengine.model.revert_sync_batchnorm)'
                )
        self.ran: set[str] = set()
        self._active: tuple[Subnet, ...] = ()
        self._execution = ''
        self._cuts: dict[Subnet, dict[str, LayerCut]] = {}

    @property
    def search_space(self) -> SearchSpace:
        """The search space of the layout."""
        return self.space

    @property
    def norms(self) -> list[_BatchNorm]:
        """BatchNorms that every subnet passes by itself."""
        return [norm for part in self.parts.values() for norm, _ in part.norms]

    @property
    def with_cp(self) -> bool:
        """Whether a module recomputes its forward in the backward."""
        return any(getattr(m, 'with_cp', False) for m in self.model.modules())

    @property
    def active_subnets(self) -> tuple[Subnet, ...]:
        """The subnets of the groups of a batch; none makes the plain full-width network."""
        return self._active

    @property
    def execution(self) -> str:
        """How the active subnets are run."""
        return self._execution

    def activate(self, subnets: Sequence[Subnet], execution: str = 'sliced') -> None:
        """Let image ``i`` of every following batch run through ``subnets[i % len(subnets)]``.

        In training mode every subnet is normalised by its own images, and running statistics are
        not tracked.

        Args:
            subnets: The subnets, one per group.
            execution: ``'sliced'`` runs each group through the weights that its subnet keeps;
                ``'masked'`` runs the full width once and drops channels by masks. Both give the
                same outputs and gradients.

        Raises:
            ValueError: If there is no subnet, one cuts a unit that is held, the execution is
                unknown, or gradient checkpointing meets sliced execution.
        """
        if not subnets:
            raise ValueError('expected at least one subnet to activate, got none')
        if execution not in EXECUTIONS:
            raise ValueError(f'execution must be one of {EXECUTIONS}, got {execution!r}')
        for unit in self.held:
            if any(subnet[unit] != self.layout.units[unit].width for subnet in subnets):
                raise ValueError(
                    f'{unit} runs on regions, not on images, so that a supernet keeps its full '
                    f"width; give the search space grids={{'{unit}': dict(ratios=[1.0])}}"
                )
        if execution == 'sliced':
            self._check_checkpointing()
        self.deactivate()
        self._active, self._execution = tuple(subnets), execution
        self.ran = set()
        if execution == 'masked':
            weight = next(self.model.parameters())
            names = self.space.names
            rows = torch.tensor([[s[n] for n in names] for s in subnets]).to(weight.device)
            self._masks = {
                name: torch.arange(self.layout.units[name].width, device=weight.device)
                < rows[:, k, None]
                for k, name in enumerate(names)
            }
        for part in self.parts.values():
            part.enter(execution)

    def deactivate(self) -> None:
        """Make the model the plain full-width network again."""
        if self._active:
            for part in self.parts.values():
                part.leave()
        self._active, self._masks = (), {}

    @contextmanager
    def active(self, subnets: Sequence[Subnet], execution: str = 'sliced') -> Iterator[None]:
        """:meth:`activate` for the time of a ``with`` block; what was active before is so again."""
        with self.inactive():
            self.activate(subnets, execution)
            yield

    @contextmanager
    def inactive(self) -> Iterator[None]:
        """The plain network for the time of a ``with`` block; what was active is so again."""
        before = self._active, self._execution
        self.deactivate()
        try:
            yield
        finally:
            self.deactivate()
            if before[0]:
                self.activate(*before)

    def check_ran(self) -> None:
        """
        Raises:
            RuntimeError: If a part that holds units has not run since the subnets became active:
                its subnets were not trained.
        """
        for name, part in self.parts.items():
            if part.layers and name not in self.ran:
                raise RuntimeError(
                    f'{type(self.model).__name__} computes its loss without the forward of its '
                    f'{name}, so that the subnets of a batch cannot share it; keep the units of '
                    f"{name} at full width: grids={{'{name}.*': dict(ratios=[1.0])}}"
                )

    def masks(self, side: Side) -> Tensor:
        """Which positions of a side each group uses, bool ``(groups, positions)``."""
        groups, device = len(self._active), next(iter(self._masks.values())).device
        runs = [
            torch.ones(groups, s.positions, dtype=torch.bool, device=device)
            if s.unit is None
            else self._masks[s.unit].repeat_interleave(s.repeat, 1)
            for s in side
        ]
        return runs[0] if len(runs) == 1 else torch.cat(runs, 1)

    def cuts(self, subnet: Subnet) -> dict[str, LayerCut]:
        """Layer -> what the subnet keeps of it."""
        if subnet not in self._cuts:
            if len(self._cuts) >= CACHED:
                self._cuts.pop(next(iter(self._cuts)))
            device = next(self.model.parameters()).device
            self._cuts[subnet] = {
                name: cut_of(layer, sides, subnet).to(device)
                for part in self.parts.values()
                for name, layer, sides in part.layers
            }
        return self._cuts[subnet]

    def _check_checkpointing(self) -> None:
        for name, module in self.model.named_modules():
            if getattr(module, 'with_cp', False):
                raise ValueError(
                    f'{name or type(module).__name__} has with_cp=True and recomputes its forward '
                    'in the backward, when the sliced execution has moved on to another subnet; '
                    "use execution='masked' or with_cp=False"
                )


class _Part:
    """A part of a supernet: it runs group by group, or masked."""

    def __init__(self, supernet: Supernet, name: str) -> None:
        self.supernet = supernet
        self.name = name
        self.module = supernet.model.get_submodule(name)
        self.inputs, self.outputs, self.leaky_outputs = supernet.layout.parts[name]
        own = {id(m) for m in self.module.modules()}
        model = supernet.model
        self.layers = [row for row in layers_in(model, supernet.layout) if id(row[1]) in own]
        sides = {id(layer): s for _, layer, s in self.layers}
        self.norms = [
            (m, sides.get(id(m))) for m in self.module.modules() if isinstance(m, _BatchNorm)
        ]
        self.leaky = [(layer, s) for name, layer, s in self.layers if name in supernet.layout.leaky]
        self.not_plain = not_plain(self.layers)

    def enter(self, execution: str) -> None:
        """Exchange the forward."""
        run = self._sliced if execution == 'sliced' else self._masked
        self.module.forward = partial(run, self.module.forward)
        self._handles: list[Any] = []
        if execution == 'masked':
            weights = (p for p in self.module.parameters() if p.dim() == 4)
            self.chunked = any(is_channels_last(weight) for weight in weights)
            for norm, sides in self.norms:
                mask = None if sides is None else self.supernet.masks(sides.outputs)
                norm.forward = partial(self._normalise, norm, norm.forward, mask)
            for layer, sides in self.leaky:
                hook = partial(self._mask_input, self.supernet.masks(sides.inputs))
                self._handles.append(layer.register_forward_pre_hook(hook))
            for row in self.not_plain:
                row[1].forward = partial(self._by_subnet, row, row[1].forward)

    def leave(self) -> None:
        """Put the stock forward back."""
        del self.module.forward
        if self.supernet.execution == 'masked':
            for norm, _ in self.norms:
                del norm.forward
            for handle in self._handles:
                handle.remove()
            for _, layer, _ in self.not_plain:
                del layer.forward

    # Sliced

    def _sliced(self, forward: Callable, *args, **kwargs) -> Any:
        self.supernet.ran.add(self.name)
        subnets = self.supernet.active_subnets
        batch = self._batch(args, kwargs)
        cuts = [self.supernet.cuts(subnet) for subnet in subnets]
        weights = {
            name: Slices.apply(layer.weight, [c[name].tensors.get('weight', {}) for c in cuts])
            for name, layer, _ in self.layers
            if getattr(layer, 'weight', None) is not None and layer.weight.dim() > 1
        }
        outputs = []
        for g, subnet in enumerate(subnets):

            def of_group(k: int, x: Tensor, g: int = g, subnet: Subnet = subnet) -> Tensor:
                if not x.dim() or len(x) != batch:
                    return x
                own = take_side(x[g :: len(subnets)], self.inputs.get(k), subnet)
                if len(subnets) == 1:
                    return own
                last = x.dim() == 4 and is_channels_last(x)
                layout = torch.channels_last if last else torch.contiguous_format
                return own.clone(memory_format=layout)  # some layers write into their inputs

            own_args, own_kwargs = map_tensors(of_group, (args, kwargs))
            own = {name: w[g] for name, w in weights.items()}
            with ExitStack() as stack:
                stack.enter_context(swapped(self.layers, cuts[g], own))
                stack.enter_context(untracked(norm for norm, _ in self.norms))
                outputs.append(forward(*own_args, **own_kwargs))
        return self._merged(outputs, batch // len(subnets))

    def _merged(self, outputs: Sequence[Any], share: int) -> Any:
        """The groups' outputs at full width, in the batch's order."""
        leaves = [[] for _ in outputs]
        for g, output in enumerate(outputs):
            map_tensors(lambda k, y, g=g: leaves[g].append(y), output)
        subnets = self.supernet.active_subnets

        def merge(k: int, y: Tensor) -> Tensor:
            if not y.dim() or len(y) != share:
                return y
            side = self.outputs.get(k)
            return interleave(
                [widen(of_group[k], side, s) for of_group, s in zip(leaves, subnets, strict=True)]
            )

        return map_tensors(merge, outputs[0])

    def _batch(self, args: Sequence, kwargs: Mapping) -> int:
        """Images of the batch."""
        sizes: list[int] = []
        map_tensors(lambda _, x: sizes.append(len(x)) if x.dim() > 1 else None, (args, kwargs))
        groups = len(self.supernet.active_subnets)
        if not sizes or sizes[0] % groups:
            raise ValueError(
                f'a batch of {sizes[0] if sizes else 0} images cannot be shared by {groups} '
                'subnets; choose a batch size that the number of subnets divides'
            )
        return sizes[0]

    # Masked

    def _masked(self, forward: Callable, *args, **kwargs) -> Any:
        self.supernet.ran.add(self.name)
        batch, groups = self._batch(args, kwargs), len(self.supernet.active_subnets)

        def by_group(k: int, x: Tensor) -> Tensor:
            if not self.chunked or not x.dim() or len(x) != batch:
                return x
            return torch.cat([x[g::groups] for g in range(groups)])

        def in_order(k: int, y: Tensor) -> Tensor:
            if not y.dim() or len(y) != batch:
                return y
            if k in self.leaky_outputs:
                y = self._masked_channels(y, self.supernet.masks(self.outputs[k]), channel_dim(y))
            return interleave(y.chunk(groups)) if self.chunked else y

        args, kwargs = map_tensors(by_group, (args, kwargs))
        return map_tensors(in_order, forward(*args, **kwargs))

    def _masked_channels(self, x: Tensor, mask: Tensor, dim: int = 1) -> Tensor:
        """Drop of every image what its group lacks.

        Args:
            x: Full-width tensor, images first.
            mask: ``(groups, channels)``.
            dim: Dimension of channels in ``x``.
        """
        share = len(x) // len(mask)
        mask = mask.repeat_interleave(share, 0) if self.chunked else mask.repeat(share, 1)
        shape = [1] * x.dim()
        shape[0], shape[dim] = len(x), x.shape[dim]
        return x * mask.to(x.dtype).view(shape)

    def _mask_input(self, mask: Tensor, layer: nn.Module, args: tuple) -> tuple:
        x, *rest = args
        return self._masked_channels(x, mask, channel_dim(x, layer)), *rest

    def _by_subnet(self, row: Row, forward: Callable[..., Tensor], x: Tensor, *args) -> Tensor:
        subnets = self.supernet.active_subnets
        cuts = [self.supernet.cuts(subnet) for subnet in subnets]
        return self._joined(by_subnet(row, cuts, subnets, forward, self._groups(x), *args))

    def _groups(self, x: Tensor) -> Sequence[Tensor]:
        """The groups' shares of a tensor inside of a masked pass."""
        groups = len(self.supernet.active_subnets)
        return x.chunk(groups) if self.chunked else [x[g::groups] for g in range(groups)]

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(parts) if self.chunked else interleave(parts)

    def _normalise(
        self, norm: _BatchNorm, forward: Callable, mask: Tensor | None, x: Tensor
    ) -> Tensor:
        """Normalise each group by its own images; dropped channels become zeros."""
        groups, channels = len(self.supernet.active_subnets), x.shape[1]
        if not norm.training or x.dim() < 2:
            y = forward(x)
            return y if mask is None else self._masked_channels(y, mask)
        if type(norm).forward is not _BatchNorm.forward:  # it does more: an activation of its own
            with untracked([norm]):
                y = self._joined([forward(part) for part in self._groups(x)])
            return y if mask is None else self._masked_channels(y, mask)
        # The affine parameters carry the mask, so that dropped channels come out as exact zeros
        # and get no gradient, without another pass over the activation.
        ones = x.new_ones(channels) if norm.weight is None else norm.weight
        mask = ones.new_ones(groups, channels) if mask is None else mask.to(ones.dtype)
        weight = ones * mask
        bias = torch.zeros_like(weight) if norm.bias is None else norm.bias * mask
        if self.chunked and x.dim() == 4:
            return ChunkedBatchNorm.apply(x, weight, bias, norm.eps)
        if self.chunked:
            parts = zip(x.chunk(groups), weight, bias, strict=True)
            return torch.cat(
                [F.batch_norm(p, None, None, w, b, True, 0.0, norm.eps) for p, w, b in parts]
            )
        # (B, C, ...) seen as (B / n, n * C, ...): one native call normalises every group
        y = F.batch_norm(
            x.reshape(len(x) // groups, groups * channels, *x.shape[2:]),
            None,
            None,
            weight.flatten(),
            bias.flatten(),
            True,
            0.0,
            norm.eps,
        )
        # nobody else holds y: as a view it could not be changed in place behind a checkpoint
        return torch.ops.aten._unsafe_view(y, x.shape)


def map_tensors(function: Callable[[int, Tensor], Any], value: Any) -> Any:
    """A nested value with every tensor exchanged for ``function(its number, it)``."""
    number = -1

    def walk(value: Any) -> Any:
        nonlocal number
        if isinstance(value, Tensor):
            number += 1
            return function(number, value)
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            items = [walk(item) for item in value]
            return type(value)(*items) if hasattr(value, '_fields') else type(value)(items)
        return value

    return walk(value)


def take_side(x: Tensor, side: Side | None, widths: Mapping[str, int]) -> Tensor:
    """The channels of ``x`` that a subnet has."""
    if side is None or not any(s.unit for s in side):
        return x
    return take(x, {channel_dim(x): kept(side, widths)})


def widen(y: Tensor, side: Side | None, widths: Mapping[str, int]) -> Tensor:
    """A subnet's output at full width, zero in the channels that it lacks."""
    if side is None or not any(s.unit for s in side):
        return y
    dim, full = channel_dim(y), sum(s.positions for s in side)
    keep = kept(side, widths)
    if isinstance(keep, int):
        missing = full - keep
        return F.pad(y, [0, 0] * (y.dim() - 1 - dim) + [0, missing]) if missing else y
    shape = list(y.shape)
    shape[dim] = full
    return y.new_zeros(shape).index_copy(dim, keep.to(y.device), y)
