"""Checkpoints of supernets are known as such, whatever has been taken off them."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from search_runs import log_of, search

from mmpse.errors import UserError
from mmpse.openmmlab.checkpoints.supernet import (
    CHECKPOINT_KEY,
    check_statistics,
    of_supernet,
    supernet_state,
)
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.supernet.building import supernet_of
from mmpse.openmmlab.supernet.hook import SupernetHook
from mmpse.slim import cut_

LOST = 'candidates are drawn by cost alone'


@pytest.fixture
def published(small_search, tmp_path):
    """What mmdet's publish_model.py and ``published_keys`` keep; and the weights alone."""
    content = torch.load(small_search.load_from, weights_only=False)
    files = {
        'meta': dict(meta=content['meta'], state_dict=content['state_dict']),
        'state_dict': dict(state_dict=content['state_dict']),
        'weights': content['state_dict'],
    }
    for name, kept in files.items():
        torch.save(kept, tmp_path / f'{name}.pth')
    return tmp_path


@pytest.mark.parametrize('kept', ['meta', 'state_dict', 'weights'])
def test_a_published_supernet_is_not_evaluated(small_search, published, kept):
    model = build_model(small_search)
    content = torch.load(published / f'{kept}.pth', weights_only=False)
    with pytest.raises(ValueError, match=r'no BatchNorm statistics .* first: backbone.bn1'):
        check_statistics(model, content, 'published.pth')


@pytest.mark.parametrize('kept', ['meta', 'state_dict'])
def test_the_prior_of_a_published_supernet_is_found_or_said_to_be_lost(
    small_search, published, kept
):
    options = {'load_from': str(published / f'{kept}.pth'), 'train_cfg.generations': 1}
    options['train_cfg.budget'] = dict(flops='80%')  # the default grid is coarse
    log = log_of(search(small_search, **options))
    assert (LOST in log) == (kept == 'state_dict')


def test_published_keys_of_the_checkpoint_hook(supernet_cfg, tmp_path):
    hook = dict(interval=1, published_keys=['meta', 'state_dict'])
    supernet_cfg.default_hooks.checkpoint.update(hook)
    supernet_cfg.train_cfg.max_epochs = 1
    Runner.from_cfg(supernet_cfg).train()
    (file,) = (path for path in tmp_path.rglob('epoch_1*.pth') if path.name != 'epoch_1.pth')
    content = torch.load(file, weights_only=False)
    assert content.keys() == {'meta', 'state_dict'}
    assert of_supernet(content) and len(supernet_state(content)['record']['loss'])


@pytest.mark.parametrize('norm_eval', [False, True])
def test_the_mark_goes_when_a_subnet_is_trained(small_search, published, scope, norm_eval):
    """Its statistics are its own after one step, unless its normalisation is frozen."""
    cfg = copy.deepcopy(small_search)
    cfg.model.backbone.norm_eval = norm_eval
    model = build_model(cfg)
    content = torch.load(published / 'meta.pth', weights_only=False)
    supernet, _ = supernet_of(model, content, cfg)
    cut_(model, supernet.layout, supernet.space.uniform(0.5))
    model.load_state_dict(torch.load(published / 'weights.pth'))
    assert of_supernet(model.state_dict())
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    (batch, *_) = Runner.build_dataloader(copy.deepcopy(small_search.train_dataloader))
    model.train()
    model.train_step(batch, optimizer)
    assert of_supernet(dict(state_dict=model.state_dict())) == norm_eval


@pytest.mark.parametrize('taught', [False, True])
def test_losses_and_distances_from_a_teacher_are_not_one_record(taught):
    hooks = [SupernetHook(teacher=dict(checkpoint='full.pth') if t else None) for t in (0, 1)]
    state = dict(record=hooks[taught].record.state_dict(), taught=taught, execution='sliced')
    runner = SimpleNamespace(_resume=True)
    checkpoint = dict(meta={CHECKPOINT_KEY: state})
    hooks[taught].after_load_checkpoint(runner, checkpoint)
    has = 'a teacher, .* had none' if not taught else 'no teacher, .* had one'
    with pytest.raises(UserError, match=f'this training has {has}.*resume with the same teacher'):
        hooks[not taught].after_load_checkpoint(runner, checkpoint)
