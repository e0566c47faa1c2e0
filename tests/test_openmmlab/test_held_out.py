"""Subnets are judged on images that the supernet did not see; a search says if they are not."""

from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmpse.openmmlab.checkpoints.supernet import supernet_state
from mmpse.openmmlab.configs.datasets import folds_of
from mmpse.openmmlab.search.held_out import warn_of_seen_images

SEARCHES = {
    'mmpretrain': 'search/psenet_resnet50_2g_in1k.py',
    'mmdet': 'detection/search_retinanet_r50_fpn_coco.py',
}


def warnings_of(cfg, supernet=None):
    said = []
    meta = {} if supernet is None else dict(mmpse_supernet=dict(held_out=folds_of(supernet)))
    runner = SimpleNamespace(cfg=cfg, logger=SimpleNamespace(warning=said.append))
    warn_of_seen_images(runner, dict(meta=meta))
    return said


@pytest.mark.parametrize('scope', SEARCHES)
def test_a_part_that_was_not_held_out_is_named(scope):
    with DefaultScope.overwrite_default_scope(scope):
        cfg = Config.fromfile(ROOT / 'configs' / SEARCHES[scope])
        train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
        repeated = dict(type='RepeatDataset', times=2, dataset=train)
        assert (
            not warnings_of(cfg) and not warnings_of(cfg, train) and not warnings_of(cfg, repeated)
        )
        (line,) = warnings_of(cfg, train.dataset)  # all of it was trained on
        assert (
            'the training of the supernet has, too' in line and 'held out there is nothing' in line
        )
        val.num_splits = 10
        first, second = warnings_of(cfg, train)
        assert 'the calibration (train_dataloader) has, too' in first
        assert "'num_splits': 10" in second and f"'num_splits': {train.num_splits}" in second
        train.num_splits = 10
        assert not warnings_of(cfg, train)
        cfg.val_dataloader.dataset = val.dataset  # another set, as far as the config tells
        assert not warnings_of(cfg, train)


def test_a_supernet_tells_what_it_held_out(small_supernet):
    checkpoint = torch.load(small_supernet / 'epoch_2.pth', weights_only=False)
    assert supernet_state(checkpoint)['held_out'] == [None]
