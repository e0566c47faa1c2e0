"""The divergence of scores, in the form of the head's loss."""

import pytest
import torch
from mmpretrain.models import (
    AsymmetricLoss,
    CrossEntropyLoss,
    FocalLoss,
    LabelSmoothLoss,
    SeesawLoss,
)
from torch import nn
from torch.distributions import Bernoulli, Categorical, kl_divergence

from mmpse.openmmlab.teaching.distance import divergence, is_sigmoid


class OwnLoss(nn.Module):
    def forward(self, scores, labels):
        return nn.functional.cross_entropy(scores, labels.long(), reduction='none')


SOFTMAX = [
    CrossEntropyLoss(),
    CrossEntropyLoss(use_soft=True, loss_weight=0.1),
    CrossEntropyLoss(class_weight=[0.2, 3.0, 1.0]),
    LabelSmoothLoss(0.1),
    LabelSmoothLoss(0.1, mode='classy_vision'),
    SeesawLoss(num_classes=3),
    OwnLoss(),
]
SIGMOID = [
    CrossEntropyLoss(use_sigmoid=True),
    CrossEntropyLoss(use_sigmoid=True, pos_weight=[1.0, 4.0, 9.0], reduction='sum'),
    LabelSmoothLoss(0.1, mode='multi_label', use_sigmoid=True),
    FocalLoss(),
    AsymmetricLoss(),
]


@pytest.mark.parametrize(
    ('loss', 'sigmoid'), [(x, False) for x in SOFTMAX] + [(x, True) for x in SIGMOID]
)
def test_the_form_of_a_loss(loss, sigmoid):
    with torch.no_grad():
        assert is_sigmoid(loss, 3) is sigmoid


@pytest.mark.parametrize(
    'loss', [FocalLoss(), AsymmetricLoss(), CrossEntropyLoss(use_sigmoid=True)]
)
@pytest.mark.parametrize('classes', [1, 2, 1000])
def test_any_number_of_classes(loss, classes):
    assert is_sigmoid(loss, classes)
    assert classes == 1 or not is_sigmoid(CrossEntropyLoss(), classes)


def test_finding_out_changes_no_counts():
    loss = SeesawLoss(num_classes=3)
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    is_sigmoid(loss, 3)
    assert before and all(torch.equal(loss.state_dict()[key], before[key]) for key in before)


def test_a_loss_of_something_else():
    with pytest.raises(ValueError, match=r'CosineSimilarity.* neither targets \(B, 3\) nor'):
        is_sigmoid(CosineSimilarity(), 3)


class CosineSimilarity(nn.Module):
    def forward(self, pred, target, mask):
        return pred


@pytest.mark.parametrize('temperature', [1.0, 3.0])
def test_divergence_is_that_of_the_distributions(temperature):
    score, teacher = 3 * torch.randn(2, 5, 7, dtype=torch.float64)
    p, q = (Categorical(logits=x / temperature) for x in (teacher, score))
    found = divergence(score, teacher, False, temperature)
    assert torch.allclose(found, kl_divergence(p, q), atol=1e-12)
    p, q = (Bernoulli(logits=x / temperature) for x in (teacher, score))
    found = divergence(score, teacher, True, temperature)
    assert torch.allclose(found, kl_divergence(p, q).sum(1), atol=1e-12)


def test_sigmoid_scores_all_too_high_are_seen():
    teacher = torch.randn(8, 20)
    assert divergence(teacher + 5, teacher, sigmoid=True).min() > 10
    assert divergence(teacher + 5, teacher, sigmoid=False).max() < 1e-5


def test_half_precision_is_summed_in_single():
    teacher = 10 * torch.randn(4, 1000)
    score = teacher + torch.randn(4, 1000)
    for sigmoid in (True, False):
        half = divergence(score.bfloat16(), teacher.bfloat16(), sigmoid)
        assert half.dtype == torch.float32
        assert torch.allclose(half, divergence(score, teacher, sigmoid), rtol=0.2)
