"""The trainings of prunings, several of which one process may do."""

import itertools
import time
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch.utils.data import Dataset

from mmpse.openmmlab.pruning import crew
from mmpse.openmmlab.pruning.job import Pruning
from mmpse.openmmlab.pruning.order import Order

CONFIG = """
model = dict(type='CrewModel')
train_cfg = dict(by_epoch=True, max_epochs=1)
train_dataloader = dict(
    batch_size=2, dataset=dict(type='CrewData'), sampler=dict(type='DefaultSampler'))
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
experiment_name = 'mine'
visualizer = dict(
    type='Visualizer', name='visualizer', vis_backends=[dict(type='LocalVisBackend')])
log_level = 'ERROR'
"""


class CrewModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, mode):
        return dict(loss=(self.weight - torch.stack(x).mean()) ** 2)


class CrewData(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(x=torch.ones(1))


def test_each_training_writes_into_its_own_folder(tmp_path, monkeypatch):
    """Stock configs name their visualizer, and MMEngine has one of each name in a process."""
    monkeypatch.setitem(MODELS.module_dict, 'CrewModel', CrewModel)
    monkeypatch.setitem(DATASETS.module_dict, 'CrewData', CrewData)
    config = tmp_path / 'finetune.py'
    config.write_text(CONFIG)
    clock = itertools.count(time.time())  # MMEngine tells runs apart by the second they begin in
    monkeypatch.setattr(time, 'time', lambda: next(clock))
    for name in ('half', 'fifth'):
        last = crew.train(config, tmp_path / name)
        assert last == str(tmp_path / name / 'epoch_1.pth')
    for name in ('half', 'fifth'):
        (scalars,) = (tmp_path / name).rglob('scalars.json')
        assert len(scalars.read_text().splitlines()) == 2  # iterations
        assert len(list((tmp_path / name).rglob('*.log'))) == 1


@pytest.mark.parametrize('processes', [1, 2])
def test_processes_share_the_iterations_of_an_epoch(processes):
    """Of a config that counts iterations."""
    pruning = Pruning.__new__(Pruning)
    pruning.cfg = Config(
        dict(
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=1000),
            train_dataloader=dict(batch_size=2),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
        )
    )
    pruning.images, pruning.order = SimpleNamespace(total=20), Order(dict(flops='50%'), epochs=3)
    pruning.crew = SimpleNamespace(processes=processes)
    assert pruning.schedule().changes['train_cfg'] == dict(max_iters=30 // processes)
