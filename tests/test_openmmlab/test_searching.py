"""``prune(how='search')`` from the model to the pruned one, killed and resumed."""

import json
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tiny_tasks import write_task

import mmpse.api
from mmpse.openmmlab.configs.splits import held_out
from mmpse.openmmlab.pruning.searching import supernet_end
from mmpse.openmmlab.seeding import SeedHook


class Killed(Exception):
    pass


@pytest.fixture
def kill(monkeypatch):
    """Ends the ``k``-th iteration from now on, of whichever training, as a kill would."""
    left = [None]
    after = SeedHook.after_train_iter

    def counted(self, *args, **kwargs):
        if left[0] is not None:
            left[0] -= 1
            if left[0] < 0:
                left[0] = None
                raise Killed
        return after(self, *args, **kwargs)

    monkeypatch.setattr(SeedHook, 'after_train_iter', counted)

    def at(k):
        left[0] = k

    return at


def prune(task, out, **options):
    config, checkpoint = task
    return mmpse.api.prune(
        config, checkpoint, flops='60%', how='search', epochs=4, out=out, **options
    )


def weights(path):
    return torch.load(path, weights_only=False)['state_dict']


@pytest.mark.slow
def test_search_prunes_a_detector(digits, tmp_path):
    config, checkpoint = write_task('detection', digits, tmp_path)
    config.write_text(config.read_text().replace('lr=0.01', 'lr=1e-5'))  # its weights are random
    out = tmp_path / 'out'
    result = prune((config, checkpoint), out)
    assert result.table['after']['flops'] <= 0.6 * result.table['before']['flops']
    assert (out / 'pruned.pth').is_file() and (out / 'pruned.py').is_file()

    cfg, finetune = (Config.fromfile(out / f'steps/{name}.py') for name in ('supernet', 'finetune'))
    assert (cfg.train_cfg.max_epochs, finetune.train_cfg.max_epochs) == (1, 3)
    assert finetune.param_scheduler[0].start == 1
    # the images that judge were in no training of the supernet
    split = held_out(Config.fromfile(config))
    trained, unseen = (
        {info['img_id'] for info in map(data.get_data_info, range(len(data)))}
        for data in (
            Runner.build_dataloader(cfg.train_dataloader, seed=0).dataset,
            Runner.build_dataloader(dict(split.unseen), seed=0).dataset,
        )
    )
    assert len(unseen) == 16 and len(trained) == 32 and not trained & unseen

    # the search improves on what sensitivity chose, and keeps that unless it is surely beaten
    start = json.loads((out / 'steps/start.json').read_text())
    assert cfg.custom_hooks[-1].sampler.start == start['widths']
    judged = json.loads((out / 'steps/judged.json').read_text())
    assert judged[0]['name'] == start['source']['how']
    assert judged[0]['widths'] == list(start['widths'].values())
    assert all(row['name'].startswith('search') for row in judged[1:])
    best = min(judged, key=lambda row: row['loss'])
    won = best if best['gain'] > best['error'] else judged[0]
    assert list(result.subnet.values()) == won['widths']
    # the pruned model begins with the supernet's weights or the original's, whichever loses less
    log = (out / 'prune.log').read_text()
    found = re.search(r'reconstructed: loss ([\d.]+) .*\n?.*recalibrated: ([\d.]+)', log)
    original, shared = map(float, found.groups())
    source = out / 'steps/sorted.pth'
    if shared <= original:
        source = json.loads((out / 'steps/supernet.json').read_text())
    cut, key = weights(out / 'steps/cut.pth'), 'backbone.conv1.weight'
    assert torch.equal(cut[key], weights(source)[key][: len(cut[key])])
    assert 'losses of subnets:\nunit ' in log


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_files(digits, tmp_path, kill):
    task = write_task('classification', digits, tmp_path)
    whole = prune(task, tmp_path / 'whole')
    for moment in (2, 6, 12):  # in the supernet, and in the fine-tuning
        out = tmp_path / f'killed at {moment}'
        kill(moment)
        with pytest.raises(Killed):
            prune(task, out)
        torch.manual_seed(999)
        result = prune(task, out, resume=True)
        assert result.subnet == whole.subnet
        first, second = (weights(r.out / 'pruned.pth') for r in (whole, result))
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_schedule_is_shared():
    assert [supernet_end(total) for total in (2, 4, 12, 100)] == [1, 1, 3, 25]
    with pytest.raises(ValueError, match='is of length 1; give at least 2 epochs'):
        supernet_end(1)
