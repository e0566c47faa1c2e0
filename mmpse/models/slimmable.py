"""What makes a stock backbone slimmable: its width units, the active subnets, static subnets."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import initialize
from mmengine.model.weight_init import PretrainedInit
from torch import Tensor, nn

from mmpse.openmmlab.types import is_type
from mmpse.registry import WEIGHT_INITIALIZERS
from mmpse.space import SearchSpace, Subnet
from mmpse.space.search_space import DEFAULT_RATIOS

from .layers import PrefixSlices, SlimmableBN2d, interleave, is_channels_last
from .slicing import shrink_conv_, shrink_linear_, shrink_norm_, slice_on_load

EXECUTIONS = ('sliced', 'masked')
FROM_CHECKPOINT = ('mmpse.WarmStart', PretrainedInit)  # as init_cfg


class Layer(NamedTuple):
    """A convolution with its normalisation layer, and the units of its two sides.

    Or a fully connected layer, whose inputs are a flattened feature: several of each channel.
    """

    conv: str  # name of the layer in the backbone
    norm: str | None  # name of its normalisation layer
    inputs: str | None  # unit of the input; None where it is fixed: the image
    outputs: str | None  # unit of the output; None where it is fixed: fully connected layers


class SlimmableBackbone:
    """Mixin that goes before a stock backbone class.

    Without ``subnet`` the backbone is a supernet: it holds full-width weights, and while subnets
    are active (:meth:`activate`) every image of a batch runs through the subnet of its group. The
    features come out at full width, zero in the channels that a subnet lacks, so that necks, heads
    and losses need to know nothing. With ``subnet`` it is that subnet as a plain static network.

    A family adds :meth:`declare_layers` and :meth:`feature_units`.

    Args:
        subnet: A subnet file, its content, or a :class:`mmpse.space.Subnet`.
        ratios, divisor, grids: Widths to choose from, see :class:`mmpse.space.SearchSpace`. With
            ``subnet`` those of its file are used.
        norm_cfg: Normalisation; a supernet takes ``BN`` only, a static subnet any.
        **kwargs: The arguments of the stock backbone.

    Attributes:
        search_space (SearchSpace): The width units and their candidates.
        subnet (Subnet | None): The static subnet.
        out_channels (tuple[int]): Channels of the features, one per item of ``out_indices``.

    Raises:
        SubnetError: If the subnet cannot be read or does not belong to this backbone.
        ValueError: If ``norm_cfg`` is not one that a supernet can use, or the grid is none.
    """

    def __init__(
        self,
        subnet: str | os.PathLike | Mapping | None = None,
        ratios: Sequence[float] = DEFAULT_RATIOS,
        divisor: int = 8,
        grids: Mapping[str, Mapping[str, Any]] | None = None,
        conv_cfg: dict | None = None,
        norm_cfg: Mapping[str, Any] | None = dict(type='BN'),
        **kwargs,
    ) -> None:
        norm_cfg = None if norm_cfg is None else dict(norm_cfg)
        if subnet is not None:
            subnet = Subnet.load(subnet)
            grid = subnet.grid
        else:
            plain = norm_cfg is None or is_type(norm_cfg, nn.BatchNorm2d)
            if conv_cfg is not None or not plain:
                raise ValueError(
                    f'{type(self).__name__} without a subnet is a supernet: every subnet of a '
                    'batch is normalised alone, so that it takes conv_cfg=None and norm_cfg type '
                    f"'BN', got conv_cfg={conv_cfg} and norm_cfg={norm_cfg}"
                )
            grid = dict(ratios=ratios, divisor=divisor, grids=grids)
            conv_cfg = dict(type='mmpse.SlimmableConv2d')
            if norm_cfg is not None:
                norm_cfg['type'] = 'mmpse.SlimmableBN2d'
        super().__init__(conv_cfg=conv_cfg, norm_cfg=norm_cfg, **kwargs)

        self.layers_of_units = tuple(self.declare_layers())
        widths: dict[str, int] = {}
        for layer in self.layers_of_units:
            if layer.outputs is not None:
                widths.setdefault(layer.outputs, self.get_submodule(layer.conv).out_channels)
        self.search_space = SearchSpace(widths, self.identity(), **grid)
        self.subnet: Subnet | None = None
        self._active: tuple[Subnet, ...] = ()
        self._execution = ''
        self._parts: tuple[str, ...] | None = None
        self._running: list[tuple[Layer, nn.Module, nn.Module | None]] = []  # with its norm
        self._masked: list[tuple[nn.Module, str]] = []  # modules that carry the masks of a unit
        for layer in self.layers_of_units:
            for name in filter(None, (layer.conv, layer.norm)):
                state = self.get_submodule(name).state_dict()
                slice_on_load(self, {f'{name}.{key}': value.shape for key, value in state.items()})
        if subnet is not None:
            self.subnet = self.adopt(subnet)
            self._shrink()
        self.out_channels = self.feature_channels(self.subnet or self.search_space.fullnet)

    # What a family declares

    def identity(self) -> dict[str, Any]:
        """Type and width-giving arguments; subnets of another identity are refused."""
        raise NotImplementedError

    def declare_layers(self) -> Iterator[Layer]:
        """All layers with weights in the order of the forward, with their units."""
        raise NotImplementedError

    def feature_units(self) -> list[str | int]:
        """The unit of every feature that the forward returns; its channels where they are fixed."""
        raise NotImplementedError

    def parts(self) -> dict[str, tuple[str, ...]]:
        """What the forward runs one after the other: part -> names of its modules, in order."""
        raise NotImplementedError

    def run_part(self, part: str, x: Tensor) -> Tensor:
        """Run one part by its stock modules."""
        for name in self.parts()[part]:
            x = self.get_submodule(name)(x)
        return x

    def layers_of(self, parts: Iterable[str]) -> list[Layer]:
        """The layers of some parts, in the order of the forward."""
        modules = [name for part in parts for name in self.parts()[part]]
        return [
            layer
            for layer in self.layers_of_units
            if any(layer.conv == name or layer.conv.startswith(f'{name}.') for name in modules)
        ]

    def feature_channels(self, subnet: Mapping[str, int]) -> tuple[int, ...]:
        """Channels of every feature of a subnet."""
        return tuple(subnet.get(unit, unit) for unit in self.feature_units())

    def adopt(self, subnet: Subnet) -> Subnet:
        """The subnet of this backbone that a given one stands for.

        Raises:
            SubnetError: If it does not belong to this backbone.
        """
        return self.search_space.validate(subnet)

    def last_units(self, stages: Sequence[str]) -> list[str]:
        """The unit that the last convolution of each stage (a child of the backbone) writes."""
        last = {layer.conv.split('.')[0]: layer.outputs for layer in self.layers_of_units}
        return [last[stage] for stage in stages]

    def init_weights(self) -> None:
        """As the stock backbone's; weights of a checkpoint come last, over everything."""
        init_cfgs = self.init_cfg or []
        if isinstance(init_cfgs, Mapping):
            init_cfgs = [init_cfgs]
        loading = [c for c in init_cfgs if is_type(c, FROM_CHECKPOINT, WEIGHT_INITIALIZERS)]
        self.init_cfg = [c for c in init_cfgs if c not in loading]
        super().init_weights()
        self.init_cfg = init_cfgs
        initialize(self, loading)

    # Many subnets in one pass

    def activate(
        self,
        subnets: Sequence[Subnet],
        execution: str = 'sliced',
        parts: Sequence[str] | None = None,
    ) -> None:
        """Let image ``i`` of every following batch run through ``subnets[i % len(subnets)]``.

        Args:
            subnets: The subnets, one per group.
            execution: ``'sliced'`` runs each group through the first channels of every layer;
                ``'masked'`` runs the full width once and drops channels by prefix masks. Both
                give the same features and gradients.
            parts: The parts that will be run, by :meth:`forward_parts`; ``None``: all of them.

        Raises:
            ValueError: If there is no subnet, the execution is unknown, this is a static subnet,
                gradient checkpointing meets sliced execution, or the normalisation layers were
                exchanged.
        """
        if self.subnet is not None:
            raise ValueError('this backbone is a static subnet; build it without subnet= to train')
        if not subnets:
            raise ValueError('expected at least one subnet to activate, got none')
        if execution not in EXECUTIONS:
            raise ValueError(f'execution must be one of {EXECUTIONS}, got {execution!r}')
        if execution == 'sliced' and getattr(self, 'with_cp', False):
            raise ValueError(
                'with_cp=True recomputes blocks in the backward, when the sliced execution has '
                "moved on to another subnet; use execution='masked' or with_cp=False"
            )
        self.deactivate()
        self._active, self._execution, self._parts = tuple(subnets), execution, parts
        self._running = [
            (layer, self.get_submodule(layer.conv), self._norm(layer))
            for layer in (self.layers_of_units if parts is None else self.layers_of(parts))
            if layer.inputs is not None or layer.outputs is not None
        ]
        others = {type(norm) for *_, norm in self._running} - {SlimmableBN2d, type(None)}
        if others:
            raise ValueError(
                f'the normalisation layers of this supernet became {others.pop().__name__}, which '
                'knows no subnets; every subnet is normalised alone: leave sync_bn out of the '
                'config'
            )
        if execution == 'masked':
            for layer, conv, norm in self._running:
                if layer.outputs is not None:
                    self._masked.append((conv if norm is None else norm, layer.outputs))
            for module, unit in self._masked:
                module.masks = self.masks(unit, module.weight)

    def deactivate(self) -> None:
        """Make the backbone the plain full-width network again."""
        self._use(itertools.repeat(None))
        for module, _ in self._masked:
            module.masks = None
        self._active, self._running, self._masked = (), [], []

    @contextmanager
    def active(
        self,
        subnets: Sequence[Subnet],
        execution: str = 'sliced',
        parts: Sequence[str] | None = None,
    ) -> Iterator[None]:
        """:meth:`activate` for the time of a ``with`` block; what was active before is so again."""
        with self.inactive():
            self.activate(subnets, execution, parts)
            yield

    @contextmanager
    def inactive(self) -> Iterator[None]:
        """The plain network for the time of a ``with`` block; what was active is so again."""
        before = self._active, self._execution, self._parts
        self.deactivate()
        try:
            yield
        finally:
            self.deactivate()
            if before[0]:
                self.activate(*before)

    def masks(self, unit: str, like: Tensor) -> Tensor:
        """Ones in the channels of ``unit`` that each group uses, ``(groups, channels)``."""
        widths = torch.tensor([subnet[unit] for subnet in self._active], device=like.device)
        channels = torch.arange(self.search_space.fullnet[unit], device=like.device)
        return (channels < widths[:, None]).to(like.dtype)

    @property
    def norms(self) -> list[SlimmableBN2d]:
        """BatchNorms that every subnet passes by itself."""
        return [m for m in self.modules() if isinstance(m, SlimmableBN2d)]

    def check_ran(self) -> None:
        """As of :class:`mmpse.slim.Supernet`: a backbone always runs."""

    @property
    def active_subnets(self) -> tuple[Subnet, ...]:
        """The subnets of the groups of a batch; none makes the plain full-width network."""
        return self._active

    @property
    def execution(self) -> str:
        """How the active subnets are run."""
        return self._execution

    def _cuts(self) -> Iterator[tuple[Tensor, ...]]:
        """For each subnet, the slices of all running layers' weights."""
        of_layers = []
        for layer, module, _ in self._running:
            outputs, inputs = module.weight.shape[:2]
            sizes = [
                (
                    subnet.get(layer.outputs, outputs),
                    inputs if inputs == 1 else self._inputs(layer, subnet),
                )
                for subnet in self._active
            ]
            of_layers.append(PrefixSlices.apply(module.weight, sizes))
        return zip(*of_layers, strict=True)

    def _use(self, cuts: Iterable[Tensor | None]) -> None:
        """Let the running layers use these slices; ``None``: all of their weights."""
        for (_, module, norm), cut in zip(self._running, cuts):
            module.cut = cut
            if norm is not None:
                norm.sliced = cut is not None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if not self._active:
            return super().forward(x)
        return self._forward_groups(super().forward, x, None, self.feature_units())

    def forward_parts(self, parts: Sequence[str], x: Tensor) -> Tensor:
        """Run some of the parts, consecutive ones.

        While subnets are active, each group runs from the first channels of the input and comes out
        at full width, as from the forward of all parts.

        Args:
            parts: Their names; see :meth:`parts`.
            x: The full-width output of the part before them, or images, ``(B, C, H, W)``.

        Returns:
            The output of the last one.
        """

        def run(x: Tensor) -> tuple[Tensor]:
            for part in parts:
                x = self.run_part(part, x)
            return (x,)

        if not self._active:
            return run(x)[0]
        layers = self.layers_of(parts)
        return self._forward_groups(run, x, layers[0].inputs, [layers[-1].outputs])[0]

    def _forward_groups(
        self,
        run: Callable[[Tensor], tuple[Tensor, ...]],
        x: Tensor,
        inputs: str | None,
        outputs: Sequence[str | int | None],
    ) -> tuple[Tensor, ...]:
        """``run(x)``, each group through its subnet.

        Args:
            inputs: The unit of ``x``.
            outputs: The units of what ``run`` returns.
        """
        groups = len(self._active)
        if len(x) % groups:
            raise ValueError(
                f'a batch of {len(x)} images cannot be shared by {groups} subnets; choose a batch '
                'size that the number of subnets divides'
            )
        if self._execution == 'masked':
            if inputs is not None:
                x = x * self.masks(inputs, x).repeat(len(x) // groups, 1)[:, :, None, None]
            return self._forward_masked(run, x)
        features = []
        for g, (subnet, cuts) in enumerate(zip(self._active, self._cuts(), strict=True)):
            self._use(cuts)
            group = x[g::groups]
            features.append(run(group if inputs is None else group[:, : subnet[inputs]]))
        self._use(itertools.repeat(None))
        fullnet = self.search_space.fullnet
        return tuple(
            interleave([pad_channels(f, fullnet[unit]) if unit in fullnet else f for f in level])
            for level, unit in zip(zip(*features, strict=True), outputs, strict=True)
        )

    def _forward_masked(
        self, run: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor
    ) -> tuple[Tensor, ...]:
        groups = len(self._active)
        chunked = is_channels_last(x) or is_channels_last(self._running[0][1].weight)
        for module, _ in self._masked:
            module.chunked = chunked
        if not chunked:
            return run(x)
        features = run(torch.cat([x[g::groups] for g in range(groups)]))
        return tuple(interleave(feature.chunk(groups)) for feature in features)

    def _norm(self, layer: Layer) -> nn.Module | None:
        return None if layer.norm is None else self.get_submodule(layer.norm)

    def _inputs(self, layer: Layer, subnet: Mapping[str, int]) -> int:
        """Inputs of a full-width layer that ``subnet`` uses."""
        module = self.get_submodule(layer.conv)
        full = module.in_features if isinstance(module, nn.Linear) else module.in_channels
        if layer.inputs is None:
            return full
        return full // self.search_space.fullnet[layer.inputs] * subnet[layer.inputs]

    # A static subnet

    def _shrink(self) -> None:
        for layer in self.layers_of_units:
            conv, norm = self.get_submodule(layer.conv), self._norm(layer)
            inputs = self._inputs(layer, self.subnet)
            if isinstance(conv, nn.Linear):
                shrink_linear_(conv, inputs)
                continue
            shrink_conv_(conv, inputs, self.subnet[layer.outputs])
            if norm is not None:
                shrink_norm_(norm, self.subnet[layer.outputs])
            block = self.get_submodule(layer.conv.rpartition('.')[0])
            if isinstance(block, ConvModule):  # it repeats the convolution's numbers
                block.in_channels, block.out_channels = conv.in_channels, conv.out_channels
                block.groups = conv.groups


def pad_channels(x: Tensor, channels: int) -> Tensor:
    """Fill ``x`` ``(B, C, H, W)`` with zeros up to ``channels``."""
    missing = channels - x.shape[1]
    return F.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x


def find_backbone(model: nn.Module) -> SlimmableBackbone:
    """The slimmable backbone inside a model (wrapped or not).

    Raises:
        ValueError: If there is none, or more than one.
    """
    found = [m for m in model.modules() if isinstance(m, SlimmableBackbone)]
    if len(found) != 1:
        raise ValueError(
            f'expected one slimmable backbone in {type(model).__name__}, found {len(found)}; give '
            "model.backbone a type such as 'mmpse.SlimmableMobileNetV2'"
        )
    return found[0]
