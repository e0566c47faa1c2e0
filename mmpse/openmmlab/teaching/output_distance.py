"""How far a model's raw outputs are from a teacher's, whatever they are."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmpse.slim.watch import tensors_in


def output_distance(outputs: Any, teacher_outputs: Any) -> Tensor:
    """How far the raw outputs of a model are from a teacher's, for every image.

    The mean squared difference, as a share of the teacher's variance in the batch: 0 for the
    teacher itself, about 1 for a model that gives the teacher's mean wherever it is asked. Levels
    of a pyramid (tensors of one list, with equally many channels) are measured together, level by
    level with equal weight; the distance is the mean over such groups, for instance over the
    classes and the boxes of a detector.

    Args:
        outputs: Nested lists, tuples and dicts of tensors ``(images, ...)``.
        teacher_outputs: The same of the teacher, without a :func:`difference`.

    Returns:
        ``(images,)``, differentiable in ``outputs``.
    """
    counterparts = dict(zip(map(id, tensors_in(outputs)), tensors_in(teacher_outputs)))
    distances = []
    for levels in _pyramids(outputs):
        pairs = [(single(x), single(counterparts[id(x)])) for x in levels]
        errors = [(x - y).square().reshape(len(x), -1).mean(1) for x, y in pairs]
        variance = sum(y.var(correction=0) for _, y in pairs)
        distances.append(sum(errors) / variance.clamp_min(torch.finfo(variance.dtype).tiny))
    return torch.stack(distances).mean(0)


def single(x: Tensor) -> Tensor:
    """In single precision at least: sums of half floats overflow."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _pyramids(tree: Any) -> list[list[Tensor]]:
    """The tensors of a tree; those of one list that have as many channels stand together."""
    if torch.is_tensor(tree):
        return [[tree]]
    items = tree.values() if isinstance(tree, Mapping) else tree
    pyramids: dict[Any, list[Tensor]] = defaultdict(list)
    found = []
    for key, item in enumerate(items):
        if torch.is_tensor(item):
            pyramids[key if isinstance(tree, Mapping) else item.shape[1:2]].append(item)
        elif isinstance(item, (Mapping, list, tuple)):
            found += _pyramids(item)
    return [*pyramids.values(), *found]


def difference(outputs: Any, teacher_outputs: Any) -> str:
    """Why two outputs cannot be compared, in words; empty if they can."""
    shapes = [[tuple(x.shape) for x in tensors_in(tree)] for tree in (outputs, teacher_outputs)]
    if not shapes[0]:
        return 'has no tensors'
    if len(shapes[0]) != len(shapes[1]):
        return f"has {len(shapes[0])} tensors, the teacher's {len(shapes[1])}"
    for own, other in zip(*shapes):
        rest = [shape[:1] + shape[2:] for shape in (own, other)]
        if own[1:2] != other[1:2] and rest[0] == rest[1]:
            return f"has {own[1]} channels, the teacher's {other[1]}"
        if own != other:
            return f"has tensors of {own}, the teacher's are {other}"
    if len({shape[:1] for shape in shapes[0]}) > 1:
        return f'has tensors whose first dimension is not the images: {shapes[0]}'
    return ''
