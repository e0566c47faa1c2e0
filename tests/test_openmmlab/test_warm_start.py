"""WarmStart: any library's checkpoint, sorted, in a model, a backbone or a detector."""

import mmdet.models
import mmpretrain.models
import pytest
import timm
import torch
import torchvision
from mmengine.registry import DefaultScope
from test_distillation import build, retinanet

from mmpse.openmmlab.models.warm_start import WarmStart
from mmpse.registry import MODELS
from mmpse.testing import randomize_

CLASSES = 7


def randomised(model):
    torch.manual_seed(1)
    randomize_(model).eval()  # of which some give nothing back
    return model


def classifier(backbone, **kwargs):
    width = 1280 if backbone['type'] == 'MobileNetV2' else 512
    model = dict(
        type='ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=width),
        **kwargs,
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(model)


def tensors(nested):
    return [nested] if torch.is_tensor(nested) else [x for part in nested for x in tensors(part)]


def assert_same(actual, expected):
    for ours, theirs in zip(actual, expected, strict=True):
        assert theirs.abs().max() > 0.01
        assert ((ours - theirs).abs().max() / theirs.abs().max()).item() < 1e-4


SOURCES = {
    'torchvision-resnet18': (
        lambda: torchvision.models.resnet18(num_classes=CLASSES),
        dict(type='ResNet', depth=18),
    ),
    'timm-resnet18d': (
        lambda: timm.create_model('resnet18d', num_classes=CLASSES),
        dict(type='ResNet', depth=18, deep_stem=True, avg_down=True),
    ),
    'timm-mobilenetv2_050': (
        lambda: timm.create_model('mobilenetv2_050', num_classes=CLASSES),
        dict(type='MobileNetV2', widen_factor=0.5),
    ),
}


@pytest.mark.parametrize('sort', [None, 'bn'])
@pytest.mark.parametrize('name', SOURCES)
@torch.no_grad()
def test_logits_are_those_of_the_library(name, sort, tmp_path):
    """Sorted or not: the whole model's channels are permuted alike."""
    source, backbone = SOURCES[name]
    source, path = randomised(source()), str(tmp_path / 'public.pth')
    torch.save(source.state_dict(), path)
    model = classifier(backbone, init_cfg=dict(type='mmpse.WarmStart', checkpoint=path, sort=sort))
    model.init_weights()
    x = torch.randn(2, 3, 64, 64)
    assert_same([model.eval()(x)], [source(x)])
    given, loaded = source.state_dict(), model.state_dict()
    assert sum(v.double().sum() for v in given.values()).item() == pytest.approx(
        sum(v.double().sum() for v in loaded.values()).item(), rel=1e-9
    )
    last = model.backbone.conv2.bn if 'mobile' in name else model.backbone.layer4[1].bn1
    falls = bool((last.weight.abs().diff() <= 0).all())
    assert falls == (sort is not None)


@torch.no_grad()
def test_a_backbone_keeps_the_order_of_its_outputs(tmp_path, scope):
    source, path = randomised(mmpretrain.models.ResNet(18)), str(tmp_path / 'public.pth')
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in source.state_dict().items()}), path)
    init_cfg = dict(type='mmpse.WarmStart', checkpoint=path, sort='l1')
    model = classifier(dict(type='ResNet', depth=18, init_cfg=init_cfg))
    model.init_weights()
    x = torch.randn(2, 3, 64, 64)
    model.eval()
    assert_same(model.backbone(x), source(x))
    norms = model.backbone.layer4[1].conv1.weight.abs().sum((1, 2, 3))
    assert (norms.diff() <= 0).all()


@torch.no_grad()
def test_a_detector_starts_from_its_own_checkpoint(tmp_path):
    source, path = randomised(build(retinanet(), 'mmdet')), str(tmp_path / 'published.pth')
    torch.save(dict(state_dict=source.state_dict()), path)
    model = build(retinanet(), 'mmdet')
    WarmStart(path, 'l2')(model)
    x = torch.randn(1, 3, 64, 64)
    model.eval()
    assert_same(*(tensors(m(x, mode='tensor')) for m in (model, source)))
    state = model.state_dict()
    moved = [k for k, v in source.state_dict().items() if not torch.equal(state[k], v)]
    assert any(key.startswith('backbone.') for key in moved)


WARM_START = dict(type='mmpse.WarmStart', checkpoint='weights.pth')
INITS = {
    'name': WARM_START,
    'class': dict(WARM_START, type=WarmStart),
    'list': [WARM_START],
    'last': [dict(type='Kaiming', layer='Conv2d'), WARM_START],
}


@pytest.mark.parametrize('name', ['name', 'class', 'list', 'last'])
@pytest.mark.parametrize('package', [mmpretrain, mmdet])
def test_loaded_weights_stay_however_they_are_asked_for(
    name, package, scope, tmp_path, monkeypatch
):
    # stock ResNets set the last norm of every block to zero after any init_cfg but a plain
    # Pretrained
    monkeypatch.chdir(tmp_path)
    source = randomised(package.models.ResNet(18))
    torch.save(source.state_dict(), 'weights.pth')
    model = package.models.ResNet(18, zero_init_residual=True, init_cfg=INITS[name])
    model.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_loaded_weights_stay_in_a_whole_model(tmp_path):
    backbone = dict(type='ResNet', depth=18, zero_init_residual=True)
    source, path = randomised(classifier(backbone)), str(tmp_path / 'weights.pth')
    torch.save(source.state_dict(), path)
    model = classifier(backbone, init_cfg=dict(type='mmpse.WarmStart', checkpoint=path))
    model.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_without_a_checkpoint_the_stock_initialization_is_done(scope):
    backbone = mmpretrain.models.ResNet(18, zero_init_residual=True)
    backbone.init_weights()
    assert not backbone.layer1[0].bn2.weight.any()


def test_what_is_left_at_random_is_said(monkeypatch, tmp_path):
    said, path = [], tmp_path / 'resnet18.pth'
    monkeypatch.setattr(
        'mmpse.openmmlab.models.warm_start.print_log', lambda text, **_: said.append(text)
    )
    torch.save(torchvision.models.resnet18().state_dict(), path)
    WarmStart(str(path))(classifier(dict(type='ResNet', depth=18)))  # of other classes
    assert 'at random start head' in said[0] and said[0].startswith('ImageClassifier: ')


def test_another_architecture_does_not_fit(tmp_path):
    path = tmp_path / 'resnet34.pth'
    torch.save(torchvision.models.resnet34().state_dict(), path)
    with pytest.raises(ValueError, match=r'resnet34.pth is not a checkpoint of this ResNet'):
        WarmStart(str(path))(mmpretrain.models.ResNet(18))
