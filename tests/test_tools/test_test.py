import torch
from command_line import QUICK, run

from mmpse.registry import MODELS


def test_missing_checkpoint_is_named():
    result = run('tools/test.py', QUICK / 'retrain_mobilenet-v2_digits.py', 'no.pth', expect=1)
    assert 'no checkpoint at no.pth; train one with tools/train.py' in result.stderr


def test_checkpoint_of_a_supernet_is_not_tested(scope, supernet_cfg, tmp_path):
    """Its BatchNorm statistics are those that it started with."""
    supernet_cfg.test_dataloader = supernet_cfg.train_dataloader
    supernet_cfg.update(test_cfg=dict(), test_evaluator=dict(type='Accuracy'), custom_hooks=[])
    supernet_cfg.dump(tmp_path / 'config.py')
    weights = MODELS.build(supernet_cfg.model).state_dict()
    torch.save(dict(state_dict=weights, meta=dict(mmpse_supernet={})), tmp_path / 'supernet.pth')
    command = 'tools/test.py', tmp_path / 'config.py', tmp_path / 'supernet.pth'
    result = run(*command, '--work-dir', tmp_path, expect=1)
    assert 'it has no BatchNorm statistics to evaluate with' in result.stderr
