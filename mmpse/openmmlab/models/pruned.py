"""Whole models of OpenMMLab: their units, and their subnets as plain static models."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.dist import is_distributed
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from mmpse.errors import UserError, is_bug
from mmpse.openmmlab import compat
from mmpse.openmmlab.progress import Track
from mmpse.registry import MODELS
from mmpse.slim.cutting import cut_
from mmpse.slim.layout import Layout
from mmpse.slim.units import find_units
from mmpse.slim.watch import evaluating
from mmpse.space import Subnet, SubnetError

from .outputs import image_channels, parts_of, raw_outputs

SIZES = (64, 128, 224, 320, 512)  # of the watched images; the smallest that the model takes


def look(
    model: nn.Module,
    size: Sequence[int] | None = None,
    track: Track = iter,
    parts: Sequence[str] | None = None,
) -> tuple[Layout, Tensor]:
    """Find the units of a whole model.

    Args:
        model: A classifier, detector or segmentor, or any module that takes images.
        size: Height and width of the images that it is made for, tried if smaller ones do not do.
        parts: Modules that subnets run through as wholes; by default backbone, neck and heads.

    Returns:
        The layout, and the image that the model was watched on ``(1, C, H, W)``.

    Raises:
        UserError: If its forward fails on images alone. What goes wrong though its forward does not
            is a bug, and raised as it is.
    """
    parts = parts_of(model) if parts is None else parts
    weight = next(model.parameters())
    sizes = [(side, side) for side in SIZES] + ([] if size is None else [tuple(size)])
    run = partial(raw_outputs, model)
    for shape in [(c, *size) for size in sizes for c in image_channels(model)]:
        images = torch.zeros(1, *shape, device=weight.device, dtype=weight.dtype)
        try:  # layers that compute nothing take smaller images than layers that do
            with torch.no_grad(), evaluating(model):
                run(images.repeat(2, 1, 1, 1))
        except Exception as failure:  # a forward may raise whatever it does
            if is_bug(failure):
                raise
            error = failure
            continue
        with compat.deformable_attention_unsampled():
            layout = find_units(model, images, run, parts, track)
            if layout.unseen:  # are there heads that run in training alone?
                try:
                    more = find_units(model, images, run, parts, track, also=run)
                    layout = more if len(more.unseen) < len(layout.unseen) else layout
                except Exception as error:  # a forward may need more then than images
                    if is_bug(error):
                        raise
        return layout, images
    try:
        find_units(model, images, run, parts)
    except UserError as found:  # what the watching says to users names the layer
        error = found
    except Exception:  # the forward's own error, in other words
        pass
    raise UserError(
        f'the forward of {type(model).__name__} fails on images of {shape[1]}x{shape[2]} pixels '
        f'({type(error).__name__}: {error}), so that its units cannot be found'
    ) from error


@MODELS.register_module()
def Pruned(  # noqa: N802 (a name in configs)
    architecture: str | type, subnet: str | os.PathLike | Mapping[str, Any] | None, **model
) -> nn.Module:
    """Build a model and cut it to a subnet::

        model = dict(type='mmpse.Pruned', architecture='RetinaNet', subnet='subnet.json', ...)

    The result is the architecture itself, not a wrapper. It loads its own weights, and those of the
    full model, which are cut as they load.

    Args:
        architecture: Registered type of the model.
        subnet: The subnet, its file or the file's content; ``None`` leaves the full model.
        **model: The rest of the full model's config.

    Raises:
        SubnetError: If the subnet cannot be read, or is one of another model.
    """
    built = MODELS.build(dict(model, type=architecture))
    if subnet is None:
        return built
    if not is_distributed():
        # as the runner does next, whose new layers would not cut weights as they load
        built = revert_sync_batchnorm(built)
    subnet = Subnet.load(subnet)
    try:
        return cut_(built, layout_of(subnet), subnet)
    except ValueError as error:
        raise SubnetError(f'{subnet.path or "the subnet"}: {error}') from error


def layout_of(subnet: Subnet) -> Layout:
    """The layout that a subnet of a whole model carries.

    Raises:
        SubnetError: If it is a subnet of a backbone alone.
    """
    if 'layers' not in subnet.backbone:
        raise SubnetError(
            f'{subnet.path or "the subnet"} is one of a backbone ({subnet.backbone.get("type")}), '
            'not of a whole model, as a search or mmpse prune writes it; search again'
        )
    return Layout.from_dict(subnet.backbone)
