"""The stages of a classifier, and how far those of a subnet are from the fullnet's.

A stage is some consecutive parts of the backbone. A subnet's stage runs on the fullnet's feature in
front of it, cut to the subnet's first channels there; its target is the fullnet's feature behind
it, cut likewise. The last stage includes neck and head, and is compared by its scores. Source:
stage-wise pruning, arXiv 2011.04908; see docs/stagewise.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmpse.openmmlab.teaching.scores import divergence, is_sigmoid

from .slimmable import SlimmableBackbone


class Stage(NamedTuple):
    """Consecutive parts of a backbone."""

    name: str
    parts: tuple[str, ...]
    inputs: str | None  # unit of the boundary in front of it; None where that is the images
    outputs: str | None  # unit of the boundary behind it; None of the last stage
    units: tuple[str, ...]  # of its layers and boundaries, in the order of the space


def split_stages(
    backbone: SlimmableBackbone, stages: Sequence[Sequence[str]] | None = None
) -> tuple[Stage, ...]:
    """Split a backbone into stages.

    Args:
        backbone: The backbone.
        stages: The names of each stage's parts, e.g. ``[['stem', 'layer1'], ['layer2', 'layer3'],
            ['layer4']]``. ``None``: every part is a stage, but for a first one of a single layer,
            which joins the next: it sees whole images, so that none of its channels depends on the
            choice of others.

    Raises:
        ValueError: If the stages are not all parts of the backbone, once each and in the order of
            the forward, or if the backbone's feature is not that of its last part alone.
    """
    parts = list(backbone.parts())
    if stages is None:
        first = 2 if len(backbone.layers_of(parts[:1])) == 1 and len(parts) > 1 else 1
        stages = [parts[:first], *([part] for part in parts[first:])]
    _check(stages, parts, type(backbone).__name__)
    if backbone.feature_units() != [_end(backbone, parts[-1]) or backbone.feature_units()[-1]]:
        raise ValueError(
            f'the stages of {type(backbone).__name__} end with {parts[-1]!r}, but out_indices='
            f'{tuple(backbone.out_indices)} gives other features to the head; leave out_indices out'
        )
    result, inputs = [], None
    for k, names in enumerate(map(tuple, stages)):
        end = _end(backbone, names[-1])
        sides = {unit for layer in backbone.layers_of(names) for unit in layer[2:]}
        result.append(
            Stage(
                name=names[0] if len(names) == 1 else f'{names[0]}-{names[-1]}',
                parts=names,
                inputs=inputs,
                outputs=end if k < len(stages) - 1 else None,
                units=tuple(unit for unit in backbone.search_space.names if unit in sides),
            )
        )
        inputs = end
    return tuple(result)


def _end(backbone: SlimmableBackbone, part: str) -> str | None:
    """The unit of a part's output."""
    return backbone.layers_of([part])[-1].outputs


def _check(stages: Sequence[Sequence[str]], parts: Sequence[str], backbone: str) -> None:
    named = [
        part for stage in stages for part in ([stage] if isinstance(stage, str) else list(stage))
    ]
    problems = {
        'unknown': [part for part in named if part not in parts],
        'in several stages': [part for part in parts if named.count(part) > 1],
        'in no stage': [part for part in parts if part not in named],
    }
    found = [f'{", ".join(map(str, names))} {what}' for what, names in problems.items() if names]
    if not found and named != parts:
        found = ['another order']
    if not found and not all(not isinstance(stage, str) and len(stage) for stage in stages):
        found = ['a stage that is not a list of parts']
    if found:
        raise ValueError(
            f'stages must split the parts of {backbone} in the order of the forward, '
            f'{", ".join(parts)}; got {list(stages)}: {"; ".join(found)}'
        )


def run_stage(model: BaseModel, stage: Stage, x: Tensor) -> Tensor:
    """The output of a stage of a classifier.

    Args:
        model: The classifier, its subnets active or not.
        stage: The stage.
        x: The full-width output of the stage before it, or images, ``(B, C, H, W)``.

    Returns:
        A full-width feature ``(B, C, H, W)``, or scores ``(B, classes)`` of the last stage.
    """
    x = model.backbone.forward_parts(stage.parts, x)
    return x if stage.outputs is not None else model.head(neck_features(model, x))


def neck_features(model: BaseModel, x: Tensor) -> tuple[Tensor, ...]:
    """What the head of a classifier gets from the last feature of its backbone."""
    return model.neck((x,)) if model.with_neck else (x,)


def stage_errors(model: BaseModel, stage: Stage, output: Tensor, target: Tensor) -> Tensor:
    """How far each active subnet's stage is from the fullnet's, summed over its images.

    Args:
        model: The classifier with its subnets active.
        stage: The stage.
        output: What :func:`run_stage` gives with the subnets active.
        target: What it gives of the fullnet.

    Returns:
        ``(2, groups)``: squared error and energy of the target's channels that the subnet has; for
        the last stage ``KL(fullnet || subnet)``, by sigmoid or softmax as in the head's loss, and
        the number of images. Their ratio is the distance.
    """
    groups = len(model.backbone.active_subnets)
    dtype = torch.promote_types(output.dtype, torch.float32)  # sums of half floats overflow
    output, target = output.to(dtype), target.to(dtype)
    if stage.outputs is None:
        sigmoid = is_sigmoid(model.head.loss_module, target.shape[1])
        error = divergence(output, target, sigmoid)
        energy = torch.ones_like(error)
    else:
        masks = model.backbone.masks(stage.outputs, target).repeat(len(target) // groups, 1)
        target = target * masks[:, :, None, None]
        error = (output - target).square().sum((1, 2, 3))
        energy = target.square().sum((1, 2, 3))
    return torch.stack([error, energy]).view(2, -1, groups).sum(1)


def distances(errors: Tensor) -> Tensor:
    """Distances ``(groups,)`` of sums as :func:`stage_errors` gives them."""
    error, energy = errors
    return error / energy.clamp_min(torch.finfo(energy.dtype).tiny)


def stage_parameters(model: BaseModel, stage: Stage) -> Iterator[nn.Parameter]:
    """The parameters that a stage of a classifier trains; head and neck belong to the last one."""
    modules = [
        model.backbone.get_submodule(name)
        for part in stage.parts
        for name in model.backbone.parts()[part]
    ]
    if stage.outputs is None:
        modules += [model.neck, model.head] if model.with_neck else [model.head]
    for module in modules:
        yield from (p for p in module.parameters() if p.requires_grad)
