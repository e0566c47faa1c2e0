"""The trainings of prunings, several of which one process may do."""

import itertools
import time

import torch
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch.utils.data import Dataset

from mmpse.openmmlab.pruning import crew

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
