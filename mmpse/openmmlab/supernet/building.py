"""The supernet that a model is: through its slimmable backbone, or as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmpse.models import SlimmableBackbone, backbone_costs, find_backbone
from mmpse.openmmlab.configs.files import ConfigError, default_input_shape
from mmpse.openmmlab.models.outputs import deployed_outputs, raw_outputs
from mmpse.openmmlab.models.pruned import look
from mmpse.resources import model_cost
from mmpse.slim import Supernet, check
from mmpse.slim.layout import Layout
from mmpse.space import Cost, SearchSpace, Subnet, TableCost


class Shared(Protocol):
    """What trains subnets that share a batch: :class:`mmpse.slim.Supernet`, or a backbone.

    Attributes:
        search_space: Its widths.
        active_subnets: The subnets of the groups of a batch; none: the full-width network.
        execution: How they are run.
        norms: BatchNorms that every subnet passes by itself.
        with_cp: Whether anything recomputes its forward, so that it cannot be run sliced.
    """

    search_space: SearchSpace
    active_subnets: tuple[Subnet, ...]
    execution: str
    norms: Sequence[_BatchNorm]
    with_cp: Any

    def activate(self, subnets: Sequence[Subnet], execution: str = 'sliced') -> None: ...

    def deactivate(self) -> None: ...

    def active(
        self, subnets: Sequence[Subnet], execution: str = 'sliced'
    ) -> AbstractContextManager[None]: ...

    def inactive(self) -> AbstractContextManager[None]: ...

    def check_ran(self) -> None: ...


def find_supernet(
    model: nn.Module,
    cfg: Config,
    grid: Mapping[str, Any],
    input_shape: Sequence[int] | None = None,
) -> tuple[Shared, dict[str, Cost | TableCost]]:
    """The supernet of a model, and what its subnets cost.

    A model with a slimmable backbone shares that; of any other one all units are found. Processes
    find the same.

    Args:
        model: The model, not wrapped.
        cfg: The config that it was built from.
        grid: ``ratios``, ``divisor`` and ``grids`` of the search space, where they are given.
        input_shape: ``(C, H, W)`` of the image that FLOPs are counted for; by default that of the
            config's tests.

    Raises:
        LookError: If the model cannot be watched.
        ValueError: If nothing of it can be pruned, or the backbone has a grid of its own.
    """
    if any(isinstance(m, SlimmableBackbone) for m in model.modules()):
        backbone = find_backbone(model)
        if grid:
            raise ValueError(
                f'{", ".join(grid)} of this supernet are those of its {type(backbone).__name__}; '
                'give them to the backbone'
            )
        return backbone, backbone_costs(backbone)
    try:
        shape = tuple(input_shape or default_input_shape(cfg, model))
    except ConfigError:  # what is watched then does, since only ratios of costs matter
        shape = None
    revert_sync_batchnorm(model)  # every process has its own subnets
    layout, images = look(model, shape and shape[1:])
    supernet = whole_supernet(model, layout, **grid)
    check(model, layout, supernet.search_space, images, raw_outputs)
    shape = tuple(images.shape[1:]) if shape is None else (images.shape[1], *shape[1:])
    return supernet, whole_costs(model, layout, supernet.search_space, shape)


def whole_supernet(
    model: nn.Module,
    layout: Layout,
    ratios: Sequence[float] | None = None,
    divisor: int = 8,
    grids: Mapping[str, Mapping[str, Any]] | None = None,
) -> Supernet:
    """A whole model as a supernet; units that subnets cannot share stay at full width."""
    rest = dict(divisor=divisor, model=type(model).__name__)
    if ratios is not None:
        rest['ratios'] = ratios
    supernet = Supernet(model, layout, layout.space(grids=grids, **rest))
    if not supernet.held:
        return supernet
    full = {name: dict(ratios=[1.0], divisor=1) for name in sorted(supernet.held)}
    return Supernet(model, layout, layout.space(grids={**(grids or {}), **full}, **rest))


def whole_costs(
    model: nn.Module, layout: Layout, space: SearchSpace, shape: Sequence[int]
) -> dict[str, Cost]:
    """FLOPs and parameters of a whole model's subnets, for an image ``(C, H, W)``."""
    weight = next(model.parameters())
    image = torch.zeros(1, *shape, device=weight.device, dtype=weight.dtype)
    return model_cost(model, layout, space, image, partial(deployed_outputs, model))
