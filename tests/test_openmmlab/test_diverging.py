"""A training that diverges: heads stumble over NaN, or nobody notices."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmpse.openmmlab.pruning import crew
from mmpse.openmmlab.pruning.steps import PruneError
from mmpse.openmmlab.pruning.subject import check_training_set

SENTENCE = (
    r'^the training diverged: 1 weights are not finite \(weight, \.\.\.\); it began with cut\.pth; '
    r'make sure that the checkpoint is one of a trained model, or give .*lr or a clip_grad'
)


def lose(model):
    with torch.no_grad():
        model.weight[0, 0] = torch.nan


@pytest.mark.parametrize('stumbles', [True, False])
@pytest.mark.parametrize('diverges', [True, False])
def test_one_sentence(stumbles, diverges, tmp_path, monkeypatch):
    class Runner(SimpleNamespace):
        @classmethod
        def from_cfg(cls, cfg):
            return cls(model=nn.Linear(2, 1), register_hook=lambda hook: None)

        def train(self):
            if diverges:
                lose(self.model)
            if stumbles:
                raise RuntimeError('all elements of input should be between 0 and 1')

    monkeypatch.setattr(crew, 'build_runner', Runner.from_cfg)
    config = tmp_path / 'finetune.py'
    config.write_text("load_from = 'cut.pth'")
    if diverges:
        with pytest.raises(PruneError, match=SENTENCE):
            crew.train(config, tmp_path / 'work')
    elif stumbles:
        with pytest.raises(RuntimeError, match='all elements'):
            crew.train(config, tmp_path / 'work')


def test_it_stops_early():
    hook, runner = crew.FiniteHook('cut.pth'), SimpleNamespace(model=nn.Linear(2, 1), iter=99)
    hook.after_train_iter(runner, 0)
    lose(runner.model)
    for runner.iter in range(100, 149):
        hook.after_train_iter(runner, 0)
    runner.iter = 149
    with pytest.raises(PruneError, match=SENTENCE):
        hook.after_train_iter(runner, 0)


@pytest.mark.parametrize(
    'changes, fails',
    [
        (dict(drop_last=True), True),
        (dict(batch_sampler=dict(type='Grouped', drop_last=True)), True),
        (dict(drop_last=False), False),
        (dict(drop_last=True, batch_size=3), False),
        (dict(drop_last=True, sampler=dict(type='InfiniteSampler')), False),
    ],
)
def test_a_training_set_that_is_smaller_than_a_batch(changes, fails):
    loader = dict(batch_size=4, dataset=dict(type=Three), sampler=dict(type='DefaultSampler'))
    cfg = Config(dict(train_dataloader={**loader, **changes}))
    if fails:
        with pytest.raises(PruneError, match='has 3 images, fewer than a batch of 4, and'):
            check_training_set(cfg)
    else:
        check_training_set(cfg)


class Three:
    def __len__(self):
        return 3
