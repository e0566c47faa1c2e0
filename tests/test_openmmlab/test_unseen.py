"""Models of a user, whose losses run layers that a prediction does not."""

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from mmpse.openmmlab.pruning.steps import PruneError
from mmpse.openmmlab.pruning.subject import examine
from mmpse.openmmlab.pruning.unseen import check_losses


class WithAuxiliary(BaseModel):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3)
        self.head, self.auxiliary = nn.Linear(32, 4), nn.Linear(16, 4)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        early = self.first(inputs).relu()
        scores = self.head(self.second(early).relu().mean((2, 3)))
        if mode != 'loss':
            return scores
        also = self.auxiliary(early.mean((2, 3)))
        return dict(loss=scores.square().mean() + also.square().mean())


def test_what_only_losses_read_is_to_be_kept(monkeypatch):
    monkeypatch.setitem(MODELS.module_dict, 'WithAuxiliary', WithAuxiliary)
    cfg = Config(dict(model=dict(type='WithAuxiliary')))
    batch = dict(inputs=torch.randn(2, 3, 16, 16), data_samples=[])
    with pytest.raises(PruneError, match='run auxiliary, which read .* keep these: --keep first$'):
        check_losses(examine(cfg, None, (3, 16, 16)), batch)
    check_losses(examine(cfg, None, (3, 16, 16), keep=['first']), batch)


class WithoutLabels(BaseModel):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, 4)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        scores = self.head(self.first(inputs).relu().mean((2, 3)))
        if mode != 'loss':
            return scores
        if not data_samples:
            raise KeyError('labels')
        return dict(loss=scores.square().mean())


def test_losses_that_fail_are_told_in_a_sentence(monkeypatch):
    monkeypatch.setitem(MODELS.module_dict, 'WithoutLabels', WithoutLabels)
    subject = examine(Config(dict(model=dict(type='WithoutLabels'))), None, (3, 16, 16))
    batch = dict(inputs=torch.randn(1, 3, 16, 16), data_samples=[])
    with pytest.raises(PruneError, match=r"of WithoutLabels, .* \(KeyError: 'labels'\)"):
        check_losses(subject, batch)
    check_losses(subject, dict(batch, data_samples=[1]))
