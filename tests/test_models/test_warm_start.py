"""Public checkpoints give the same outputs in a supernet as in the library they come from."""

import mmdet.models
import mmpretrain.models
import pytest
import timm
import torch
import torchvision
from mmengine.model.weight_init import PretrainedInit
from mmengine.registry import DefaultScope
from torch import nn

from mmpse.models import (
    SlimmableMobileNetV2,
    SlimmableResNet,
    SlimmableVGG,
    WarmStart,
    load_public,
)
from mmpse.models.meta import WeightsOnMeta
from mmpse.registry import MODELS

CLASSES = 7


def randomised(model):
    """Statistics and scales that matter, with activations that neither vanish nor explode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.num_batches_tracked += 3
        elif isinstance(module, nn.Conv2d) and module.weight.numel() < 1e7:  # not timm's VGG head
            nn.init.kaiming_normal_(module.weight, nonlinearity='relu')
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
    model.eval()
    return model


def torchvision_vgg(name):
    builder = getattr(torchvision.models, name)
    return lambda: builder(num_classes=CLASSES, init_weights=False)


def torchvision_model(name, **kwargs):
    return lambda: getattr(torchvision.models, name)(num_classes=CLASSES, **kwargs)


def timm_model(name):
    return lambda: timm.create_model(name, num_classes=CLASSES)


MOBILENET = dict(type='mmpse.SlimmableMobileNetV2')
RESNET = dict(type='mmpse.SlimmableResNet', depth=50)
DEEP = dict(RESNET, deep_stem=True)
SOURCES = {
    'torchvision-resnet18': (torchvision_model('resnet18'), dict(RESNET, depth=18)),
    'torchvision-resnet50': (torchvision_model('resnet50'), RESNET),
    'torchvision-mobilenet_v2': (torchvision_model('mobilenet_v2'), MOBILENET),
    'torchvision-mobilenet_v2-1.5': (
        torchvision_model('mobilenet_v2', width_mult=1.5),
        dict(MOBILENET, widen_factor=1.5),
    ),
    'timm-resnet50': (timm_model('resnet50'), RESNET),
    'timm-resnet50c': (timm_model('resnet50c'), DEEP),
    'timm-resnet50d': (timm_model('resnet50d'), dict(DEEP, avg_down=True)),
    'timm-resnet18d': (timm_model('resnet18d'), dict(DEEP, depth=18, avg_down=True)),
    'timm-mobilenetv2_100': (timm_model('mobilenetv2_100'), MOBILENET),
    'timm-mobilenetv2_140': (timm_model('mobilenetv2_140'), dict(MOBILENET, widen_factor=1.4)),
    'timm-mobilenetv2_050': (timm_model('mobilenetv2_050'), dict(MOBILENET, widen_factor=0.5)),
}
VGGS = {
    'torchvision-vgg16_bn': (torchvision_vgg('vgg16_bn'), 16, dict(type='BN')),
    'torchvision-vgg16': (torchvision_vgg('vgg16'), 16, None),
    'timm-vgg16_bn': (timm_model('vgg16_bn'), 16, dict(type='BN')),
    'timm-vgg11': (timm_model('vgg11'), 11, None),
}


def classifier(backbone, **kwargs):
    width = MODELS.build(backbone).out_channels[-1]
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=backbone,
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=width),
                **kwargs,
            )
        )


def assert_same(actual, expected):
    assert expected.abs().max() > 0.01
    assert ((actual - expected).abs().max() / expected.abs().max()).item() < 1e-5


@pytest.mark.parametrize('name', SOURCES)
@torch.no_grad()
def test_logits_are_those_of_the_library(name, tmp_path):
    build, backbone = SOURCES[name]
    source = randomised(build())
    path = str(tmp_path / 'public.pth')
    torch.save(source.state_dict(), path)
    model = classifier(backbone, init_cfg=dict(type='mmpse.WarmStart', checkpoint=path))
    model.init_weights()
    model.eval()
    x = torch.randn(2, 3, 96, 64)
    assert_same(model(x), source(x))
    # every parameter is consumed: as many, and the same numbers
    given, loaded = source.state_dict(), model.state_dict()
    assert len(given) == len(loaded)
    assert sum(v.double().sum() for v in given.values()).item() == pytest.approx(
        sum(v.double().sum() for v in loaded.values()).item(), rel=1e-9
    )


@pytest.mark.parametrize('name', VGGS)
@torch.no_grad()
def test_vgg_features_and_classifier(name, tmp_path):
    build, depth, norm_cfg = VGGS[name]
    source = randomised(build())
    backbone = SlimmableVGG(depth, norm_cfg=norm_cfg)
    load_public(backbone, source.state_dict(), 'public.pth')
    backbone.eval()
    x = torch.randn(1, 3, 64, 96)
    assert_same(backbone(x)[0], source.features(x))
    with WeightsOnMeta():
        whole = SlimmableVGG(depth, norm_cfg=norm_cfg, num_classes=CLASSES)
    whole.to_empty(device='cpu')
    load_public(whole, source.state_dict(), 'public.pth')
    whole.eval()
    x = torch.randn(1, 3, 224, 224)
    assert_same(whole(x)[-1], source(x))


@pytest.mark.parametrize(
    'backbone', [MOBILENET, RESNET, dict(DEEP, avg_down=True)], ids=['MobileNetV2', 'R50', 'V1d']
)
@torch.no_grad()
def test_openmmlab_checkpoints(backbone, tmp_path, caplog):
    source = randomised(classifier(backbone))
    path = str(tmp_path / 'epoch_1.pth')
    bare = {
        k.removeprefix('backbone.'): v
        for k, v in source.state_dict().items()
        if k.startswith('backbone.')
    }
    prefixed = {f'module.{k}': v for k, v in source.state_dict().items()}
    detector = {f'backbone.{k}': v for k, v in bare.items()} | {'neck.x': torch.zeros(1)}
    x = torch.randn(2, 3, 64, 64)
    for content in (dict(state_dict=source.state_dict(), meta={}), bare, prefixed, detector):
        torch.save(content, path)
        ours = MODELS.build(dict(backbone, init_cfg=dict(type='mmpse.WarmStart', checkpoint=path)))
        ours.init_weights()
        ours.eval()
        assert_same(ours(x)[0], source.backbone(x)[0])
    torch.save(dict(state_dict=source.state_dict()), path)
    model = classifier(backbone, init_cfg=dict(type='mmpse.WarmStart', checkpoint=path))
    model.init_weights()
    model.eval()
    assert_same(model(x), source(x))


def outputs(nested):
    if torch.is_tensor(nested):
        return [nested]
    return [tensor for item in nested for tensor in outputs(item)]


@torch.no_grad()
def test_stem_of_mmseg_v1c():
    from mmseg.models import ResNetV1c

    source = randomised(ResNetV1c(depth=50))
    backbone = MODELS.build(dict(DEEP, out_indices=(0, 1, 2, 3)))
    load_public(backbone, source.state_dict(), 'resnet50_v1c.pth')
    backbone.eval()
    x = torch.randn(1, 3, 64, 64)
    for ours, theirs in zip(backbone(x), source(x), strict=True):
        assert_same(ours, theirs)


@torch.no_grad()
def test_mobilenet_v2_of_mmdet():
    from mmdet.models import MobileNetV2

    source = randomised(MobileNetV2(out_indices=(1, 2, 4, 7)))
    backbone = SlimmableMobileNetV2(out_indices=(1, 2, 4, 7))
    load_public(backbone, source.state_dict(), 'mobilenet_v2.pth')
    backbone.eval()
    x = torch.randn(1, 3, 64, 64)
    for ours, theirs in zip(backbone(x), source(x), strict=True):
        assert_same(ours, theirs)


KAIMING = dict(type='Kaiming', layer='Conv2d')
WARM_START = dict(type='mmpse.WarmStart', checkpoint='weights.pth')
PRETRAINED = dict(type='Pretrained', checkpoint='weights.pth')
INITS = {
    'name': WARM_START,
    'class': dict(WARM_START, type=WarmStart),
    'list': [WARM_START],
    'list-of-class': [dict(WARM_START, type=WarmStart)],
    'last': [KAIMING, WARM_START],
    'first': [WARM_START, KAIMING],
    'pretrained-class': dict(PRETRAINED, type=PretrainedInit),
    'pretrained-list': [KAIMING, PRETRAINED],
}


@pytest.mark.parametrize('name', INITS)
def test_loaded_weights_stay_however_they_are_asked_for(name, scope, tmp_path, monkeypatch):
    # mmpretrain sets the last norm of every block to zero after any init_cfg but a plain Pretrained
    monkeypatch.chdir(tmp_path)
    source = randomised(mmpretrain.models.ResNet(18))
    torch.save(source.state_dict(), 'weights.pth')
    backbone = SlimmableResNet(18, zero_init_residual=True, init_cfg=INITS[name])
    backbone.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value), key


@pytest.mark.parametrize('name', ['name', 'class', 'list', 'last'])
@pytest.mark.parametrize('package', [mmpretrain, mmdet])
def test_loaded_weights_stay_in_a_stock_backbone(name, package, scope, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = randomised(package.models.ResNet(18))
    torch.save(source.state_dict(), 'weights.pth')
    model = package.models.ResNet(18, init_cfg=INITS[name])
    model.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_without_a_checkpoint_the_stock_initialization_is_done(scope):
    backbone = SlimmableResNet(18, zero_init_residual=True)
    backbone.init_weights()
    assert not backbone.layer1[0].bn2.weight.any()


def test_backbone_alone_says_what_it_leaves_out(monkeypatch):
    said = []
    monkeypatch.setattr('mmpse.models.warm_start.print_log', lambda text, **_: said.append(text))
    load_public(SlimmableResNet(18), resnet18(), 'resnet18.pth')
    (text,) = said
    assert text == (
        "SlimmableResNet: 120 tensors loaded from resnet18.pth (torchvision's ResNet layout); not "
        'of the backbone, left out: head.fc.bias, head.fc.weight'
    )


def test_older_checkpoint_without_batch_counters():
    weights = randomised(torchvision.models.resnet18()).state_dict()
    weights = {k: v for k, v in weights.items() if not k.endswith('num_batches_tracked')}
    backbone = SlimmableResNet(18)
    load_public(backbone, weights, 'resnet18.pth')
    assert torch.equal(backbone.conv1.weight, weights['conv1.weight'])


def test_static_subnet_takes_the_first_channels():
    weights = torchvision.models.mobilenet_v2().state_dict()
    subnet = SlimmableMobileNetV2().search_space.uniform(0.5)
    static = SlimmableMobileNetV2(subnet=subnet)
    load_public(static, weights, 'mobilenet_v2.pth')
    full = weights['features.18.0.weight']
    assert torch.equal(static.conv2.conv.weight, full[: subnet['conv2'], : subnet['layer7']])


def partly(weights, without='', extra=()):
    weights = {key: value for key, value in weights.items() if not without or without not in key}
    return weights | {key: torch.zeros(1) for key in extra}


def resnet18(**kwargs):
    return torchvision.models.resnet18(**kwargs).state_dict()


@pytest.mark.parametrize(
    ('model', 'weights', 'message'),
    [
        (
            lambda: SlimmableResNet(18),
            lambda: partly(resnet18(), 'layer2.1.bn2.', ['layer2.1.se.weight']),
            r"r.pth \(torchvision's ResNet layout\) does not fit SlimmableResNet: 4 missing "
            r'\(layer2.1.bn2.bias, .*\); 1 unexpected \(layer2.1.se.weight\). Give',
        ),
        (
            lambda: SlimmableResNet(34),
            resnet18,
            r'80 missing \(layer1.2.bn1.bias, layer1.2.bn1.running_mean, .* and 70 more\)\. Give',
        ),
        (
            lambda: SlimmableResNet(50),
            lambda: timm.create_model('resnet50d').state_dict(),
            r"timm's ResNet with a deep stem.* 17 missing .*bn1.bias.*; 33 unexpected",
        ),
        (
            lambda: SlimmableMobileNetV2(widen_factor=1.5),
            lambda: timm.create_model('mobilenetv2_140').state_dict(),
            r'of another width .*layer2.0.conv.2.conv.weight is \(32, 144, 1, 1\), expected '
            r'\(40, 144, 1, 1\)',
        ),
        (
            lambda: classifier(dict(RESNET, depth=18)),
            resnet18,
            r'2 of another shape, so of another width or number of classes \(head.fc.weight is '
            r'\(1000, 512\), expected \(7, 512\).* set init_cfg in model.backbone',
        ),
        (
            lambda: classifier(dict(RESNET, depth=18)),
            lambda: partly(resnet18(), 'fc.'),
            r'2 missing \(head.fc.bias, head.fc.weight\)',
        ),
        (
            lambda: SlimmableVGG(11, norm_cfg=dict(type='BN')),
            lambda: torchvision.models.efficientnet_b0().state_dict(),
            r'48 missing .*; 358 unexpected',
        ),
        (lambda: SlimmableResNet(18), lambda: {'epoch': 3}, 'holds no weights: expected'),
    ],
    ids=['SE', 'depth', 'stem', 'width', 'classes', 'no-head', 'architecture', 'no-weights'],
)
def test_checkpoints_that_do_not_fit(model, weights, message):
    with pytest.raises(ValueError, match=message):
        load_public(model(), weights(), 'r.pth')


def test_names_that_the_libraries_download(monkeypatch, tmp_path):
    """The same calls as with a network, stopped where they would use it."""
    create = timm.create_model
    calls = []

    def create_model(name, pretrained):
        calls.append((name, pretrained))
        return create(name)

    monkeypatch.setattr(timm, 'create_model', create_model)
    backbone = SlimmableMobileNetV2(widen_factor=0.5)
    WarmStart('timm://mobilenetv2_050')(backbone)
    assert calls == [('mobilenetv2_050', True)]

    def load_url(url, *args, **kwargs):
        calls.append(url.rpartition('/')[2])
        return resnet18()

    monkeypatch.setattr('mmengine.runner.checkpoint.load_url', load_url)
    WarmStart('torchvision://resnet18')(SlimmableResNet(18))
    assert calls[-1].startswith('resnet18-')

    def download(url, path, *args, **kwargs):
        calls.append(url.rpartition('/')[2])
        torch.save(resnet18(), path)

    monkeypatch.setattr('torch.hub.get_dir', lambda: str(tmp_path))
    monkeypatch.setattr('torch.hub.download_url_to_file', download)
    calls.clear()
    for _ in range(2):  # the second time it is there
        WarmStart('mmpretrain://resnet18_8xb32_in1k')(SlimmableResNet(18))
    assert len(calls) == 1 and calls[0].startswith('resnet18_8xb32_in1k_')


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    weights = timm.create_model('mobilenetv2_050').state_dict()
    save_file(weights, tmp_path / 'model.safetensors')
    backbone = SlimmableMobileNetV2(widen_factor=0.5)
    WarmStart(str(tmp_path / 'model.safetensors'))(backbone)
    assert torch.equal(backbone.conv2.conv.weight, weights['conv_head.weight'])
