"""How far what a model puts out is from what a teacher does, in the form in which it is used.

Raw outputs are not equally important everywhere: a detector's boxes mean nothing where it sees
nothing, and a sum of squares over all its scores is a sum over the background. A RetinaNet cut to
half its widths (scenes of digits, 250 iterations) reached mAP 57.4 without a teacher, 55.6 by
squares of the raw outputs or by channel-wise softmaxes (CWD, arXiv 2011.13256), 57.8 by
:func:`head_distance`; at an IoU of 0.5: 79.8, 78.2, 77.7 and 81.5. The first and the last are of
two seeds.
"""

import itertools
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmpse.errors import UserError
from mmpse.slim.watch import tensors_in

# Scores


def is_sigmoid(loss: nn.Module, classes: int) -> bool:
    """Whether a loss takes every class for a question of its own (sigmoid), not one of all.

    A softmax does not see the level of its scores, so that the gradients of a loss on top of it sum
    to zero over the classes. This is tried out, whatever the loss is called.

    Args:
        loss: A head's ``loss_module``, called with scores ``(B, classes)`` and targets, either of
            the same shape or indices ``(B,)``.

    Raises:
        ValueError: If the loss takes neither.
    """
    device = next(itertools.chain(loss.parameters(), loss.buffers()), torch.empty(0)).device
    levels = torch.linspace(0, 1, classes, device=device)[None]
    one_hot = F.one_hot(torch.zeros(1, dtype=torch.long, device=device), classes).float()
    state = {name: value.clone() for name, value in loss.state_dict().items()}
    for target in (one_hot, one_hot.argmax(1)):
        scores = levels.clone().requires_grad_()
        try:
            with torch.enable_grad():
                value = loss.forward(scores, target).sum()  # without the module's hooks
            gradient = torch.autograd.grad(value, scores)[0]
        except Exception as error:  # whatever the loss raises at a target that it does not take
            problem = error
            continue
        finally:
            loss.load_state_dict(state)  # some count the labels that they saw
        return bool(gradient.sum().abs() > 1e-3 * gradient.abs().sum())
    raise UserError(
        f'{type(loss).__name__} takes neither targets (B, {classes}) nor indices (B,), so that it '
        f'is not known how its scores are to be compared with a teacher ({problem}); use a loss of '
        'mmpretrain, or train without a teacher'
    ) from problem


def divergence(score: Tensor, teacher: Tensor, sigmoid: bool, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of the scores of every image from the teacher's.

    Args:
        score, teacher: ``(B, classes)``, before sigmoid or softmax.
        sigmoid: Whether a class is a distribution of its own, yes or no: the divergence is the sum
            over the classes. Otherwise they are one distribution.
        temperature: Divides the scores of both.

    Returns:
        ``(B,)``, not negative.
    """
    dtype = torch.promote_types(score.dtype, torch.float32)
    score, teacher = score.to(dtype) / temperature, teacher.to(dtype) / temperature
    if sigmoid:
        probability = teacher.sigmoid()
        cross, own = (
            F.binary_cross_entropy_with_logits(x, probability, reduction='none')
            for x in (score, teacher)
        )
        return (cross - own).sum(1)
    return F.kl_div(
        score.log_softmax(1), teacher.log_softmax(1), reduction='none', log_target=True
    ).sum(1)


# Any outputs


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


# Heads


def head_distance(head: nn.Module, output: Any, teacher: Any) -> tuple[Tensor, str]:
    """How far a head's output is from the teacher's, and in which form, in words.

    * Classifiers (``loss_module``) and segmentors (``loss_decode``): divergence of the scores, the
      mean over images or pixels.
    * Dense heads of detectors: :func:`detection_distance`.
    * Others: :func:`output_distance`.

    Args:
        output, teacher: Nested lists and tuples of tensors ``(images, ...)``, of equal shapes.
    """
    if torch.is_tensor(output) and output.dim() == 2 and hasattr(head, 'loss_module'):
        sigmoid = is_sigmoid(head.loss_module, output.shape[1])
        return divergence(output, teacher, sigmoid).mean(), _form(sigmoid)
    if torch.is_tensor(output) and output.dim() == 4 and hasattr(head, 'loss_decode'):
        losses = [loss for loss in head.loss_decode.modules() if hasattr(loss, 'use_sigmoid')]
        sigmoid = output.shape[1] == 1 or any(loss.use_sigmoid for loss in losses[:1])
        pixels = [x.movedim(1, -1).flatten(0, 2) for x in (output, teacher)]
        return divergence(*pixels, sigmoid).mean(), _form(sigmoid)
    if _is_dense(head, output):
        sigmoid = getattr(getattr(head, 'loss_cls', None), 'use_sigmoid', None)
        sigmoid = getattr(head, 'use_sigmoid_cls', True) if sigmoid is None else sigmoid
        distance = detection_distance(output, teacher, head.cls_out_channels, sigmoid)
        return distance, f'{_form(sigmoid)}, and boxes'
    return output_distance(output, teacher).mean(), 'raw outputs'


def _form(sigmoid: bool) -> str:
    return 'sigmoid' if sigmoid else 'softmax'


def _is_dense(head: nn.Module, output: Any) -> bool:
    """Whether a head is one of mmdet's that put out classes, boxes and (some) score factors.

    Each is a list of tensors ``(B, anchors * k, H, W)``, one a level.
    """
    classes = getattr(head, 'cls_out_channels', None)
    if not classes or not isinstance(output, (list, tuple)) or len(output) < 2:
        return False
    if not all(isinstance(item, (list, tuple)) for item in output):
        return False
    for levels in zip(*output):
        if not all(torch.is_tensor(x) and x.dim() == 4 for x in levels):
            return False
        anchors, rest = divmod(levels[0].shape[1], classes)
        if rest or any(x.shape[2:] != levels[0].shape[2:] or x.shape[1] % anchors for x in levels):
            return False
    return len({len(item) for item in output}) == 1


def detection_distance(output: Any, teacher: Any, classes: int, sigmoid: bool) -> Tensor:
    """How far the outputs of a dense head are from the teacher's.

    * The divergence of the scores that the boxes are ranked by (sigmoids of the classes times that
      of centerness or objectness, if there is one), summed over classes and places, for each object
      of the teacher.
    * The squared difference of the boxes as a share of the teacher's variance, where the teacher
      sees something.

    A place counts by the square of the teacher's confidence, its largest score; the number of
    objects is their sum, at least 1. The distance is 0.3 times the sum of the two.

    Args:
        output: Classes ``(B, anchors * classes, H, W)`` for each level, boxes ``(B, anchors * k, H,
            W)``, and maybe more of the kind.
        classes: Classes of an anchor; of a softmax the last is the background.
        sigmoid: Whether every class is a score of its own.
    """
    (scores, *own), (teacher_scores, *other) = (
        [_by_place(levels, x[0], classes) for levels in x] for x in (output, teacher)
    )
    factors = [k for k, x in enumerate(own) if x.shape[2] == 1] if sigmoid else []
    if sigmoid:
        log_q = _log_product(scores, [own[k] for k in factors])
        log_p = _log_product(teacher_scores, [other[k] for k in factors])
        p = log_p.exp()
        apart = p * (log_p - log_q) + (1 - p) * (_log_complement(log_p) - _log_complement(log_q))
        confidence = p.amax(2)
    else:
        log_p = teacher_scores.log_softmax(2)
        apart = log_p.exp() * (log_p - scores.log_softmax(2))
        confidence = 1 - log_p[..., -1].exp()
    weight = confidence.square()[..., None]
    distance = apart.sum() / weight.sum().clamp_min(1)
    for k, (x, y) in enumerate(zip(own, other)):
        if k not in factors:
            total = weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)
            mean = (weight * y).sum((0, 1)) / total
            variance = (weight * (y - mean).square()).sum()
            error = (weight * (x - y).square()).sum()
            distance = distance + error / variance.clamp_min(torch.finfo(weight.dtype).tiny)
    return 0.3 * distance  # alone it is some four times the losses that a RetinaNet has itself


def _by_place(levels: list[Tensor], scores: list[Tensor], classes: int) -> Tensor:
    """Levels ``(B, anchors * k, H, W)`` as ``(B, places, k)``: every anchor, wherever it is."""
    places = []
    for x, score in zip(levels, scores):
        x = single(x).unflatten(1, (score.shape[1] // classes, -1))
        places.append(x.movedim(2, -1).flatten(1, 3))
    return torch.cat(places, 1)


def _log_product(scores: Tensor, factors: list[Tensor]) -> Tensor:
    """Logarithm of the product of sigmoids."""
    return F.logsigmoid(scores) + sum(F.logsigmoid(x) for x in factors)


def _log_complement(log_p: Tensor) -> Tensor:
    """``log(1 - p)``; a score of 1 is taken for one a little lower."""
    return torch.log1p(-log_p.clamp_max(-1e-6).exp())
