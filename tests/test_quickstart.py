"""The path from a supernet to a detector with the searched backbone, on the embedded digits."""

import numpy as np
import torch
from conftest import ROOT, small
from mmengine.runner import Runner

import mmpse
from mmpse.space import Subnet

QUICK = ROOT / 'configs/quickstart'


def test_supernet_search_retraining_and_transfer(trained_search_cfg, digits, tmp_path):
    """As docs/transfer.md has it; all are small and trained for an epoch."""
    Runner.from_cfg(trained_search_cfg).train()
    path = tmp_path / 'search_mobilenet-v2_digits/best_subnet.json'
    subnet = Subnet.load(path)

    retrain = small(QUICK / 'retrain_mobilenet-v2_digits.py', digits, tmp_path)
    retrain.model.subnet = str(path)
    retrain.train_cfg.max_epochs = 1
    runner = Runner.from_cfg(retrain)
    runner.train()
    found = mmpse.cost(runner.model, torch.zeros(1, 3, 32, 32))
    assert found == {key: subnet.resources[key] for key in ('flops', 'params')}

    config = tmp_path / 'detector.py'
    config.write_text(
        f"_base_ = '{QUICK / 'detector_digits.py'}'\n"
        'model = dict(\n'
        '    backbone=dict(widen_factor=0.35), neck=dict(in_channels=[8, 16, 32, 1280]),\n'
        '    test_cfg=dict(score_thr=0.0))\n'  # it has learned next to nothing
        f"train_dataloader = dict(dataset=dict(data_root='{digits}', indices=16))\n"
        f"val_dataloader = dict(dataset=dict(data_root='{digits}', indices=16))\n"
        f"val_evaluator = dict(ann_file='{digits}/scenes/annotations/test.json')\n"
        "log_level = 'WARNING'\n"
        f"work_dir = '{tmp_path / 'detector'}'\n"
        'train_cfg = dict(max_epochs=1, val_interval=1)\n'
    )
    checkpoint = tmp_path / 'retrain_mobilenet-v2_digits/epoch_1.pth'
    made = mmpse.transfer(config, path, checkpoint, tmp_path / 'searched.py')
    assert made.config.work_dir is None  # not where the detector itself trains
    made.config.work_dir = str(tmp_path / 'searched')
    runner = Runner.from_cfg(made.config)
    runner.load_or_resume()
    backbone = torch.load(checkpoint, weights_only=False)['state_dict']
    for key, value in runner.model.state_dict().items():
        if key.startswith('backbone.'):
            assert torch.equal(value, backbone[key]), key
    runner.train()
    assert np.isfinite(runner.message_hub.get_scalar('val/coco/bbox_mAP').data[0]).all()
