"""Building a user's model on this machine alone, and a config without its loading."""

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule, ModuleList
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import mmpse
from mmpse.openmmlab.configs.building import build_model, neutral
from mmpse.openmmlab.configs.files import load_config, write_config
from mmpse.openmmlab.errors import ConfigError
from mmpse.registry import MODELS

RETINA = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
FCN = 'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py'


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f'a checkpoint is read: {args}')

    for name in ('torch.load', 'torch.hub.load_state_dict_from_url', 'urllib.request.urlopen'):
        monkeypatch.setattr(name, refuse)
    monkeypatch.setattr('mmengine.runner.CheckpointLoader.load_checkpoint', refuse)


@MODELS.register_module()
class Part(BaseModule):
    def __init__(self, parts=(), init_cfg=None, pretrained=None):
        super().__init__(init_cfg)
        assert not pretrained
        self.layer = nn.Linear(2, 2)
        self.parts = ModuleList(MODELS.build(part) for part in parts)


PRETRAINED = dict(type='Pretrained', checkpoint='https://example.org/weights.pth')
CONSTANT = dict(type='Constant', layer='Linear', val=0.5)


def toy(**kwargs) -> dict:
    return dict(type='mmpse.Part', **kwargs)


@pytest.mark.parametrize(
    'model, changes',
    [
        (toy(init_cfg=PRETRAINED), dict(init_cfg=None)),
        (toy(init_cfg=[CONSTANT, PRETRAINED]), dict(init_cfg=[CONSTANT])),
        (toy(init_cfg=[PRETRAINED]), dict(init_cfg=None)),
        (toy(init_cfg=dict(type='mmpse.WarmStart', checkpoint='x.pth')), dict(init_cfg=None)),
        (toy(pretrained='open-mmlab://resnet50'), dict(pretrained=None)),
        (toy(pretrained=True), dict(pretrained=False)),
        (toy(init_cfg=CONSTANT), None),
        (toy(init_cfg=None, pretrained=None), None),
        (
            toy(parts=[toy(init_cfg=CONSTANT), toy(parts=(toy(init_cfg=PRETRAINED),))]),
            dict(parts=[toy(init_cfg=CONSTANT), toy(parts=(toy(init_cfg=None),))]),
        ),
    ],
)
def test_every_place_that_loads_is_found(model, changes, tmp_path):
    """The model itself, and the same one as a part of another one."""
    outer = dict(type='mmpse.Part', backbone=dict(detector=model))
    for name, whole, expected in (
        ('model', model, changes),
        ('outer', outer, changes and dict(backbone=dict(detector=changes))),
    ):
        cfg = Config(dict(model=whole))
        assert neutral(cfg) == ({} if expected is None else dict(model=expected))
        new = write_config(tmp_path / f'{name}.py', cfg, neutral(cfg), 'Neutral.')
        assert neutral(new) == {}
    built = build_model(Config(dict(model=model)))
    constant = 'Constant' in str(model['parts'][0] if 'parts' in model else model)
    first = built.parts[0] if built.parts else built
    assert (first.layer.weight == 0.5).all() == constant


def test_what_the_runner_would_load_is_found_too():
    cfg = Config(dict(model=toy(), load_from='detector.pth', resume=True))
    assert neutral(cfg) == dict(load_from=None, resume=False)
    cfg = Config(dict(model=toy(), load_from=None, resume=False))
    assert neutral(cfg) == {}


def test_a_teacher_keeps_its_weights_in_training_but_is_not_read_here():
    cfg = load_config('mmdet::lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py')
    assert neutral(cfg) == dict(model=dict(backbone=dict(init_cfg=None)))
    assert cfg.model.teacher_ckpt.startswith('http')
    distilled = Config(dict(model=toy(teacher=toy(init_cfg=PRETRAINED))))
    assert neutral(distilled) == {}


@pytest.mark.parametrize('config', [RETINA, FCN])
def test_what_starts_when_training_starts(config, tmp_path):
    """Issue: the old config's loading came over what the new one was said to start with."""
    old, new = tmp_path / 'old.py', tmp_path / 'new.py'
    old.write_text(f'_base_ = {config!r}\nload_from = "unpruned.pth"\nresume = True\n')
    cfg = write_config(new, old, neutral(load_config(old)), 'Neutral.')
    for key in ('train', 'val', 'test'):
        for what in ('dataloader', 'cfg', 'evaluator'):
            cfg[f'{key}_{what}'] = None
    cfg.optim_wrapper = cfg.param_scheduler = None
    cfg.work_dir, cfg.log_level, cfg.visualizer = str(tmp_path / 'work'), 'ERROR', None
    runner = Runner.from_cfg(cfg)
    runner._init_model_weights()
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    runner.load_or_resume()  # no_network sees every file that is read
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_model_starts_as_its_own_training_would():
    model = build_model(load_config(RETINA))
    assert not model.backbone.conv1.weight.is_meta
    assert torch.allclose(model.bbox_head.retina_cls.bias, torch.tensor(-4.595), atol=1e-3)
    before = load_config(RETINA)
    assert build_model(before) and before.to_dict() == load_config(RETINA).to_dict()


@pytest.mark.parametrize(
    'norm_cfg, kind',
    [
        (None, None),
        (dict(type='SyncBN', requires_grad=True, eps=1e-3), _BatchNorm),
        (dict(type='MMSyncBN', stats_mode='N', eps=1e-3, requires_grad=True), _BatchNorm),
        (dict(type='GN', num_groups=32, eps=1e-3, requires_grad=True), nn.GroupNorm),
    ],
)
def test_norms_that_need_a_job_of_many_processes_do_not_here(norm_cfg, kind):
    cfg = load_config(RETINA)
    cfg.model.neck.norm_cfg = norm_cfg
    if kind is nn.GroupNorm:
        cfg.model.backbone.norm_cfg = norm_cfg
    model = build_model(cfg)
    conv = model.neck.lateral_convs[0]
    assert conv.with_norm == (kind is not None)
    if kind is not None:
        assert isinstance(conv.norm, kind) and not isinstance(conv.norm, nn.SyncBatchNorm)
        assert conv.norm.eps == 1e-3
    model.eval()(torch.zeros(1, 3, 64, 64))


def test_data_preprocessor_at_the_top_level_and_classes_as_types(tmp_path):
    file = tmp_path / 'lazy.py'
    file.write_text("""
from mmpretrain.models import (
    ClsDataPreprocessor, GlobalAveragePooling, ImageClassifier, LinearClsHead, ResNet)

model = dict(
    type=ImageClassifier,
    backbone=dict(type=ResNet, depth=18, in_channels=4, init_cfg=dict(
        type='Pretrained', checkpoint='x.pth')),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=10, in_channels=512))
default_scope = 'mmpretrain'
data_preprocessor = dict(type=ClsDataPreprocessor, mean=[1., 2., 3., 4.], std=[1.] * 4)
""")
    cfg = load_config(file)
    model = build_model(cfg)
    assert model.data_preprocessor.mean.flatten().tolist() == [1, 2, 3, 4]
    new = write_config(tmp_path / 'new.py', file, neutral(cfg), 'Neutral.')
    assert 'import *' in (tmp_path / 'new.py').read_text()
    assert new.model.backbone.init_cfg is None and build_model(new).backbone.depth == 18


def test_an_error_in_a_constructor_is_one_sentence(tmp_path):
    for model in (dict(type='NoSuchNet'), toy(no_such_argument=1)):
        with pytest.raises(
            ConfigError, match='cannot build the model of .*NoSuchNet|such_arg'
        ) as e:
            build_model(Config(dict(model=model)))
        assert '\n' not in str(e.value)


def test_a_bug_of_ours_is_no_fault_of_the_config(monkeypatch):
    model = dict(type='mmpse.Pruned', architecture='mmpse.Part', subnet='no.json')
    with pytest.raises(ConfigError, match='cannot build the model of .*SubnetError.*no.json'):
        build_model(Config(dict(model=model)))
    monkeypatch.setattr('mmpse.openmmlab.models.pruned.revert_sync_batchnorm', None)
    with pytest.raises(TypeError, match='not callable'):
        build_model(Config(dict(model=model)))


def test_a_distilled_model_whose_train_returns_nothing():
    model = mmpse.build('mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py')
    assert not any(module.training for module in model.modules())
