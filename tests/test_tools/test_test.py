import json

import pytest
import torch
from command_line import QUICK, run
from mmengine.config import Config

import mmpse
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.errors import ConfigError
from mmpse.openmmlab.showing import count_images, show_predictions
from mmpse.registry import MODELS


def test_missing_checkpoint_is_named():
    result = run('tools/test.py', QUICK / 'classifier_digits.py', 'no.pth', expect=1)
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


@pytest.fixture
def trained(digits, tmp_path):
    """A quickstart config with few test images, and a checkpoint of random weights."""

    def make(name, **options):
        cfg = Config.fromfile(QUICK / f'{name}.py')
        cfg.model.backbone.update(init_cfg=None, widen_factor=0.35)
        if 'in_channels' in cfg.model.neck:
            cfg.model.neck.in_channels = [8, 16, 32, 1280]
        cfg.test_dataloader.batch_size = 3
        cfg.test_dataloader.dataset.update(data_root=str(digits), indices=4)
        if 'ann_file' in cfg.test_evaluator:
            cfg.test_evaluator.ann_file = str(digits / 'scenes/annotations/test.json')
        cfg.merge_from_dict(options)
        cfg.work_dir = str(tmp_path / 'work')
        cfg.dump(tmp_path / 'config.py')
        torch.save(dict(state_dict=build_model(cfg).state_dict()), tmp_path / 'model.pth')
        return 'tools/test.py', tmp_path / 'config.py', tmp_path / 'model.pth'

    return make


@pytest.mark.parametrize('name', ['classifier_digits', 'detector_digits', 'segmentor_digits'])
def test_predictions_are_drawn_in_every_package(trained, tmp_path, name):
    command = trained(name, resume=True)  # as its training was left; there is nothing to resume
    said = run(*command, '--show-dir', tmp_path / 'shown').stdout
    assert f'4 images -> {tmp_path}/shown' in said
    assert count_images(tmp_path / 'shown') == 4


def test_metrics_that_are_no_scalars(trained, tmp_path):
    evaluator = [dict(type='Accuracy', topk=(1,)), dict(type='ConfusionMatrix')]
    command = trained('classifier_digits', test_evaluator=evaluator)
    run(*command, '--out', tmp_path / 'out/metrics.json')
    metrics = json.loads((tmp_path / 'out/metrics.json').read_text())
    assert isinstance(metrics['accuracy/top1'], float)
    matrix = metrics['confusion_matrix/result']
    assert len(matrix) == 10 and sum(map(sum, matrix)) == 4


def test_checkpoint_of_another_subnet_is_not_tested(trained, tmp_path):
    """MMEngine would print what does not fit, and test the rest with random weights."""
    command = trained('classifier_digits')
    cfg = Config.fromfile(tmp_path / 'config.py')
    space = mmpse.units(build_model(cfg)).space(model='ImageClassifier')
    for name, ratio in (('one', 0.3), ('other', 0.6)):
        space.uniform(ratio).save(tmp_path / f'{name}.json')
    cfg.model.update(
        type='mmpse.Pruned', architecture='ImageClassifier', subnet=str(tmp_path / 'one.json')
    )
    cfg.dump(tmp_path / 'config.py')
    torch.save(dict(state_dict=build_model(cfg).state_dict()), tmp_path / 'model.pth')
    assert 'accuracy/top1' in run(*command, '--tta').stdout
    options = '--cfg-options', f'model.subnet={tmp_path / "other.json"}'
    result = run(*command, *options, expect=1)
    (line,) = result.stderr.splitlines()[-1:]
    assert 'model.pth is of another model, or of another subnet: ' in line and 'size mism' in line


def test_out_is_checked_before_the_test(trained, tmp_path):
    result = run(*trained('classifier_digits'), '--out', tmp_path, expect=1)
    assert result.stderr.splitlines()[-1].startswith('IsADirectoryError: ')
    assert 'Epoch(test)' not in result.stdout


def test_a_config_that_cannot_draw(tmp_path):
    for hooks, message in (
        (dict(), 'has no default_hooks.visualization'),
        (dict(visualization=dict(type='IterTimerHook')), 'takes no folder to draw into'),
    ):
        with pytest.raises(ConfigError, match=message):
            show_predictions(Config(dict(default_hooks=hooks)), 'shown')
