"""Distances of raw outputs, and of heads' outputs in the form of their use."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.models import FocalLoss
from mmpretrain.models import MultiLabelLinearClsHead
from mmseg.models import CrossEntropyLoss
from torch import nn
from torch.distributions import Bernoulli, Categorical, kl_divergence

from mmpse.openmmlab.teaching.distance import (
    detection_distance,
    difference,
    head_distance,
    output_distance,
)


def test_distance_is_zero_of_itself_and_one_of_the_mean():
    teacher = [[torch.randn(3, 4, 8, 8) + 5, torch.randn(3, 4, 4, 4)], torch.randn(3, 2)]
    assert torch.equal(output_distance(teacher, teacher), torch.zeros(3))
    mean = [[x.mean().expand_as(x) for x in teacher[0]], teacher[1].mean().expand_as(teacher[1])]
    assert output_distance(mean, teacher).mean().item() == pytest.approx(1)


def test_distance_sees_levels_and_not_units():
    teacher = dict(a=torch.randn(3, 4, 8, 8), b=(torch.randn(3, 2, 8, 8),))
    student = dict(a=torch.randn(3, 4, 8, 8), b=(torch.randn(3, 2, 8, 8),))

    def scaled(x):
        return dict(a=100 * x['a'] + 7, b=(0.1 * x['b'][0] - 3,))

    expected = output_distance(student, teacher)
    found = output_distance(scaled(student), scaled(teacher))
    assert torch.allclose(found, expected, rtol=1e-4)
    shifted = dict(teacher, a=teacher['a'] + 5)
    assert output_distance(shifted, teacher).min() > 5


def test_distance_is_by_image_with_a_gradient():
    teacher = [torch.randn(3, 4, 8, 8).half(), torch.randn(3, 2, 8, 8).half()]
    student = [x.clone().requires_grad_() for x in teacher]
    with torch.no_grad():
        student[0][1] += 1
    found = output_distance(student, teacher)
    assert found.dtype == torch.float32 and found[0] == found[2] == 0 and found[1] > 0
    found.sum().backward()
    assert student[0].grad[1].any() and not student[0].grad[0].any()


@pytest.mark.parametrize(
    ('outputs', 'others', 'message'),
    [
        (torch.ones(2, 3), torch.ones(2, 4), "has 3 channels, the teacher's 4"),
        ([torch.ones(2, 3)], [torch.ones(2, 3)] * 2, "1 tensors, the teacher's 2"),
        ([], [], 'no tensors'),
        (*[[torch.ones(2, 3), torch.ones(9, 3)]] * 2, 'not the images'),
    ],
)
def test_outputs_that_cannot_be_compared(outputs, others, message):
    assert message in difference(outputs, others)


# Heads


def random_levels(*channels, scale=1.0):
    sizes = (8, 4)
    return tuple([scale * torch.randn(2, c, s, s).double() for s in sizes] for c in channels)


def places(levels, anchors, k):
    """Rows ``(places, k)`` by loops."""
    rows = [
        x[b, a * k : a * k + k, i, j]
        for x in levels
        for b in range(x.shape[0])
        for a in range(anchors)
        for i in range(x.shape[2])
        for j in range(x.shape[3])
    ]
    return torch.stack(rows)


def boxes_apart(x, y, weight):
    weight = weight[:, None]
    mean = (weight * y).sum(0) / weight.sum()
    return (weight * (x - y) ** 2).sum() / (weight * (y - mean) ** 2).sum()


@pytest.mark.parametrize('factor', [False, True])
def test_detectors_with_a_score_of_every_class(factor):
    anchors, classes = (1, 3) if factor else (2, 3)
    channels = (anchors * classes, anchors * 4, *([anchors] if factor else []))
    student, teacher = random_levels(*channels), random_levels(*channels, scale=2)
    rows = [
        [places(kind, anchors, k) for kind, k in zip(x, (classes, 4, 1))]
        for x in (student, teacher)
    ]
    q, p = (x[0].sigmoid() * (x[2].sigmoid() if factor else 1) for x in rows)
    weight = p.amax(1) ** 2
    expected = kl_divergence(Bernoulli(p), Bernoulli(q)).sum() / weight.sum()
    expected += boxes_apart(rows[0][1], rows[1][1], weight)
    assert detection_distance(student, teacher, classes, True).item() == pytest.approx(
        0.3 * expected.item()
    )


def test_detectors_with_a_background_class():
    student, teacher = random_levels(8, 8), random_levels(8, 8)
    rows = [[places(kind, 2, 4) for kind in x] for x in (student, teacher)]
    q, p = (Categorical(logits=x[0]) for x in rows)
    weight = (1 - p.probs[:, 3]) ** 2
    expected = kl_divergence(p, q).sum() / weight.sum()
    expected += boxes_apart(rows[0][1], rows[1][1], weight)
    assert detection_distance(student, teacher, 4, False).item() == pytest.approx(
        0.3 * expected.item()
    )


def test_boxes_do_not_count_where_the_teacher_sees_nothing():
    (scores, boxes), (_, others) = random_levels(3, 4), random_levels(3, 4)
    for level in scores:
        level[:] = -20
    scores[0][0, 1, 2, 3] = 3  # the only object
    scores[0][0, 1, 6, 3] = 3
    seen = [x.clone() for x in others]
    seen[0][0, :, 2, 3], seen[0][0, :, 6, 3] = boxes[0][0, :, 2, 3], boxes[0][0, :, 6, 3]
    assert detection_distance((scores, seen), (scores, boxes), 3, True) < 1e-6
    assert detection_distance((scores, others), (scores, boxes), 3, True) > 0.03


def test_scores_of_certainty_are_finite_in_single_precision():
    outputs = [[torch.full((1, 2, 4, 4), 60.0)], [torch.randn(1, 4, 4, 4)]]
    other = [[torch.full((1, 2, 4, 4), -60.0, requires_grad=True)], [torch.randn(1, 4, 4, 4)]]
    found = detection_distance(other, outputs, 2, True)
    found.backward()
    assert torch.isfinite(found) and other[0][0].grad.isfinite().all() and other[0][0].grad.any()
    assert torch.isfinite(detection_distance(outputs, other, 2, True))


def test_each_head_has_its_form(scope):
    multi = MultiLabelLinearClsHead(3, 8)
    dense = SimpleNamespace(cls_out_channels=3, loss_cls=FocalLoss())
    pixels = nn.Module()
    pixels.loss_decode = nn.ModuleList([CrossEntropyLoss(use_sigmoid=True)])
    vector, image = torch.randn(2, 2, 3), torch.randn(2, 2, 3, 8, 8)
    levels = [random_levels(3, 4) for _ in range(2)]
    assert head_distance(multi, *vector)[1] == 'sigmoid'
    assert head_distance(pixels, *image)[1] == 'sigmoid'
    assert head_distance(dense, *levels)[1] == 'sigmoid, and boxes'
    found, form = head_distance(dense, [levels[0][0]], [levels[1][0]])
    assert form == 'raw outputs'
    assert found.item() == pytest.approx(output_distance(levels[0][0], levels[1][0]).mean().item())
