"""The supernet that a model is, found by watching or told by its checkpoint."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from mmpse.openmmlab.checkpoints.supernet import supernet_state
from mmpse.openmmlab.configs.images import default_input_shape
from mmpse.openmmlab.errors import ConfigError
from mmpse.openmmlab.models.backbones import grid_of
from mmpse.openmmlab.models.outputs import deployed_outputs, raw_outputs
from mmpse.openmmlab.models.pruned import look
from mmpse.openmmlab.progress import Track
from mmpse.resources import model_cost
from mmpse.slim import GuardError, Supernet, check
from mmpse.slim.layout import Layout
from mmpse.space import Cost, SearchSpace, Subnet


def look_at(
    model: nn.Module,
    cfg: Config,
    input_shape: Sequence[int] | None = None,
    track: Track = iter,
    parts: Sequence[str] | None = None,
) -> tuple[Layout, Tensor, tuple[int, int, int]]:
    """The units of a config's model, as :func:`look` finds them.

    Returns:
        The layout, the image that the model was watched on, and the shape ``(C, H, W)`` of the
        image that FLOPs are counted for: that of the config's tests, or else of the watched one.
    """
    try:
        size = tuple(input_shape or default_input_shape(cfg, model))[1:]
    except ConfigError:  # what is watched then does, since only ratios of costs matter
        size = None
    layout, images = look(model, size, track, parts)
    return layout, images, (images.shape[1], *(size or images.shape[2:]))


def find_supernet(
    model: nn.Module,
    cfg: Config,
    grid: Mapping[str, Any],
    input_shape: Sequence[int] | None = None,
    execution: str = 'auto',
    parts: Sequence[str] | None = None,
    shared: bool = True,
) -> tuple[Supernet, dict[str, Cost]]:
    """The supernet that a model is, and what its subnets cost.

    All units of the model are found; processes find the same.

    Args:
        model: The model, not wrapped.
        grid: ``ratios``, ``divisor`` and ``grids`` of the search space, where they are given; next
            are those of a backbone that has them.
        input_shape: ``(C, H, W)`` of the image that FLOPs are counted for, see :func:`look_at`.
        execution: How subnets will be run; ``'auto'``: in any way in which they are what they are
            alone, one at least.
        parts: Modules that subnets run through as wholes; by default backbone, neck and heads.
        shared: Whether subnets will share batches.

    Raises:
        UserError: If the model cannot be watched, or nothing of it can be pruned.
        GuardError: If subnets are not what they are alone.
    """
    grid = {**grid_of(model), **grid}
    revert_sync_batchnorm(model)  # every process has its own subnets
    layout, images, shape = look_at(model, cfg, input_shape, parts=parts)
    supernet = whole_supernet(model, layout, **grid)
    supernet.executions = _sound(supernet, images, execution, shared)
    return supernet, whole_costs(model, layout, supernet.space, shape)


def _sound(supernet: Supernet, images: Tensor, execution: str, shared: bool) -> tuple[str, ...]:
    """Executions in which subnets compute what they compute alone."""
    sound, errors = [], []
    own = supernet.model, supernet.layout, supernet.space, images, raw_outputs
    for one in supernet.executions if execution == 'auto' else [execution]:
        try:
            check(*own, [one], shared)
            sound.append(one)
        except GuardError as error:
            errors.append(error)
    if not sound:
        raise errors[0]
    for error in errors:
        print_log(f'Subnets are run {sound[0]} alone: {error}', 'current')
    return tuple(sound)


def supernet_of(
    model: nn.Module,
    checkpoint: Mapping[str, Any],
    cfg: Config,
    input_shape: Sequence[int] | None = None,
) -> tuple[Supernet, dict[str, Cost]]:
    """The supernet of a checkpoint, and what its subnets cost.

    Units and widths are those of the training, which the checkpoint carries. The checkpoint of
    another training has none: the model's units are found, on the default grid.

    Args:
        checkpoint: Its content; its weights are not loaded.
        input_shape: As of :func:`find_supernet`.

    Raises:
        ConfigError: If nothing tells the size of the images.
        CutError: If the checkpoint is one of another model.
        UserError: As of :func:`find_supernet`, if the checkpoint carries no units.
    """
    state = supernet_state(checkpoint)
    if state is None or 'layout' not in state:
        return find_supernet(model, cfg, {}, input_shape, shared=False)  # judged one by one
    revert_sync_batchnorm(model)
    layout, fullnet = Layout.from_dict(state['layout']), Subnet.from_dict(state['fullnet'])
    space = layout.space(model=fullnet.backbone['type'], **fullnet.grid)
    supernet = Supernet(model, layout, space)
    shape = tuple(input_shape or default_input_shape(cfg, model))
    return supernet, whole_costs(model, layout, space, shape)


def supernet_content(supernet: Supernet) -> dict[str, Any]:
    """What a checkpoint carries of its supernet: the content of its fullnet's file, the layout."""
    fullnet = supernet.space.fullnet.to_dict()
    return dict(fullnet=fullnet, layout=supernet.layout.to_dict(whole=True))


def whole_supernet(
    model: nn.Module,
    layout: Layout,
    grids: Mapping[str, Mapping[str, Any]] | None = None,
    **grid: Any,
) -> Supernet:
    """A whole model as a supernet; units that subnets cannot share stay at full width."""
    space = partial(layout.space, model=type(model).__name__, **grid)
    supernet = Supernet(model, layout, space(grids=grids))
    if not supernet.held:
        return supernet
    full = {name: dict(ratios=[1.0], divisor=1) for name in sorted(supernet.held)}
    return Supernet(model, layout, space(grids={**(grids or {}), **full}))


def whole_costs(
    model: nn.Module, layout: Layout, space: SearchSpace, shape: Sequence[int]
) -> dict[str, Cost]:
    """FLOPs and parameters of a whole model's subnets, for an image ``(C, H, W)``."""
    weight = next(model.parameters())
    image = torch.zeros(1, *shape, device=weight.device, dtype=weight.dtype)
    return model_cost(model, layout, space, image, partial(deployed_outputs, model))
