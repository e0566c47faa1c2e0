"""The backbone of a pruned classifier in the configs of mmdet and mmseg."""

import copy
from pathlib import Path

import pytest
import torch
import torchvision
from mmdet.apis import init_detector
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmseg.apis import init_model

import mmpse
from mmpse.cli import main
from mmpse.errors import UserError
from mmpse.openmmlab.configs.building import build_model as build_offline
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.errors import CheckpointError, ConfigError
from mmpse.openmmlab.transfer import transfer
from mmpse.registry import MODELS
from mmpse.space import Subnet

CLASSIFIER = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[0.0] * 3, std=[1.0] * 3),
    backbone=dict(BACKBONE),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=CHANNELS, topk=(1,)))
"""
DETECTOR = """
default_scope = 'mmdet'
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(BACKBONE),
    neck=dict(type='FPN', in_channels=IN, out_channels=16, num_outs=len(IN)),
    bbox_head=dict(
        type='RetinaHead', num_classes=CLASSES, in_channels=16, feat_channels=16, stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator', scales=[4], ratios=[1.0],
            strides=[4 * 2**k for k in range(len(IN))])),
    test_cfg=dict(nms_pre=10, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5)))
"""
SMALL = "depth=18, stem_channels=16, base_channels=16, norm_cfg=dict(type='BN')"
RESNET = f"type='ResNet', {SMALL}"
STOCK = "type='ResNet', depth=18, norm_cfg=dict(type='BN')"
FCN = 'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py'


def write(path, text, **values):
    for name, value in values.items():
        text = text.replace(name, value if isinstance(value, str) else repr(value))
    Path(path).write_text(text)
    return str(path)


def classifier_of(backbone, channels, folder):
    """A classifier with statistics of its own, its subnet of about half, and that subnet cut."""
    config = write(folder / 'classifier.py', CLASSIFIER, BACKBONE=backbone, CHANNELS=channels)
    model = mmpse.build(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
    layout = mmpse.units(model)
    space = layout.space(ratios=(0.25, 0.5, 0.75), model='ImageClassifier')
    generator = torch.Generator().manual_seed(3)
    subnet = space.subnet(
        [
            unit.candidates[
                int(torch.randint(max(1, len(unit.candidates) - 1), (), generator=generator))
            ]
            for unit in space.units
        ]
    )
    return model, subnet, mmpse.cut(model, layout, subnet)


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    """A small ResNet-18."""
    torch.manual_seed(0)
    return classifier_of(RESNET + ', out_indices=(3,)', 128, tmp_path_factory.mktemp('classifier'))


@pytest.fixture
def subnet(classifier, tmp_path):
    return str(classifier[1].save(tmp_path / 'subnet.json'))


def detector_of(folder, backbone=RESNET + ', norm_eval=True, frozen_stages=1', classes=3):
    channels = [16, 32, 64, 128]
    path = folder / 'detector.py'
    return write(path, DETECTOR, BACKBONE=backbone, CLASSES=classes, IN=channels)


def saved(model, path, **extra):
    torch.save(dict(state_dict=model.state_dict(), **extra), path)
    return str(path)


def build_model(cfg):
    """As a runner builds it."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))


def started(cfg, folder):
    """A runner's model when training starts: initialised and loaded."""
    cfg = copy.deepcopy(cfg)
    for split in ('train', 'val', 'test'):
        for what in ('dataloader', 'cfg', 'evaluator'):
            cfg[f'{split}_{what}'] = None
    cfg.optim_wrapper = cfg.param_scheduler = cfg.visualizer = None
    cfg.work_dir, cfg.log_level = str(folder / 'work'), 'ERROR'
    runner = Runner.from_cfg(cfg)
    runner._init_model_weights()
    runner.load_or_resume()
    return runner.model


# The same network


def features(model, images):
    with torch.no_grad():
        outputs = model.eval().backbone(images)
    return outputs


@pytest.mark.parametrize('weights', ['cut', 'full'])
def test_the_detectors_backbone_computes_what_the_classifiers_does(
    weights, classifier, subnet, tmp_path
):
    full, widths, cut = classifier
    file = saved(cut if weights == 'cut' else full, tmp_path / 'classifier.pth')
    made = transfer(detector_of(tmp_path), subnet, file, tmp_path / 'new.py')
    model = started(made.config, tmp_path)
    images = torch.randn(2, 3, 64, 96)
    found, expected = features(model, images), features(cut, images)
    assert found[-1].shape[1] < 128
    assert torch.equal(found[-1], expected[-1])
    assert all(made.subnet[unit] == width for unit, width in widths.items())
    assert {unit for unit in made.subnet if unit not in widths} == {
        unit for unit in made.subnet if not unit.startswith('backbone.')
    }
    counted = mmpse.cost(model, torch.zeros(1, 3, *made.subnet.resources['input_shape'][1:]))
    assert {k: made.subnet.resources[k] for k in counted} == counted
    assert counted['params'] < made.full['params']


NAMED_ALIKE = {  # the classifier's backbone -> a detector's or segmentor's of another package
    'mmdet MobileNetV2': (
        "type='MobileNetV2', widen_factor=0.35",
        1280,
        "type='MobileNetV2', widen_factor=0.35, out_indices=(1, 2, 4, 7)",
        [8, 16, 32, 1280],
    ),
    'mmseg ResNetV1c': (
        f"type='ResNetV1c', {SMALL}",
        128,
        f"type='mmseg.ResNetV1c', {SMALL}",
        [16, 32, 64, 128],
    ),
    'mmseg MobileNetV2, which lacks the last convolution': (
        "type='MobileNetV2', widen_factor=0.35",
        1280,
        "type='mmseg.MobileNetV2', widen_factor=0.35, out_indices=(1, 2, 4, 6)",
        [8, 16, 32, 112],
    ),
    'timm': (
        "type='TIMMBackbone', model_name='resnet10t'",
        512,
        "type='mmpretrain.TIMMBackbone', model_name='resnet10t', features_only=True, "
        'out_indices=(1, 2, 3, 4)',
        [64, 128, 256, 512],
    ),
}


@pytest.mark.parametrize('name', NAMED_ALIKE)
def test_backbones_of_other_packages(name, tmp_path):
    backbone, channels, other, features_of = NAMED_ALIKE[name]
    _, subnet, cut = classifier_of(backbone, channels, tmp_path)
    file = saved(cut, tmp_path / 'cut.pth')
    config = write(tmp_path / 'detector.py', DETECTOR, BACKBONE=other, IN=features_of, CLASSES=3)
    made = transfer(config, subnet, file, tmp_path / 'new.py')
    assert made.weights.partition('; at random start ')[2].startswith('neck, bbox_head')
    ours, theirs = started(made.config, tmp_path).eval().backbone, cut.eval().backbone
    images = torch.randn(2, 3, 64, 64)
    inner = []
    if 'lacks' in name:
        theirs.layer7.register_forward_hook(lambda *arguments: inner.append(arguments[-1]))
    with torch.no_grad():
        found, expected = ours(images)[-1], theirs(images)[-1]
    torch.testing.assert_close(found, inner[0] if inner else expected, rtol=1e-5, atol=1e-5)


def test_layers_that_the_classifier_lacks_keep_their_width(classifier, subnet, tmp_path):
    plugin = "dict(cfg=dict(type='ContextBlock', ratio=0.25), position='after_conv2')"
    backbone = RESNET.replace("'ResNet'", "'mmseg.ResNet'").replace('18', '50')
    backbone += f', contract_dilation=True, plugins=[{plugin}]'
    _, subnet, cut = classifier_of(RESNET.replace('18', '50'), 512, tmp_path)
    file = saved(cut, tmp_path / 'cut.pth')
    config = write(
        tmp_path / 'gcnet.py', DETECTOR, BACKBONE=backbone, IN=[64, 128, 256, 512], CLASSES=3
    )
    made = transfer(config, subnet, file, tmp_path / 'new.py')
    assert all('context_block' in name for name in made.kept)
    assert 'at random start backbone.layer1.0.context_block' in made.weights
    state = started(made.config, tmp_path).state_dict()
    for key, value in cut.state_dict().items():
        if key.startswith('backbone.'):
            assert torch.equal(state[key], value), key


def test_a_deep_stem_keeps_its_width(classifier, subnet, tmp_path):
    """mmseg's ResNets have one, mmpretrain's plain ResNet has not."""
    file = saved(classifier[2], tmp_path / 'cut.pth')
    config = detector_of(tmp_path, f"type='mmseg.ResNetV1c', {SMALL}")
    made = transfer(config, subnet, file, tmp_path / 'new.py')
    assert [name for name in made.kept] == ['backbone.stem.0', 'backbone.stem.3']
    assert 'at random start backbone.stem, neck, bbox_head' in made.weights


# The config


@pytest.mark.slow
@pytest.mark.parametrize(
    'config', [FCN, 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'], ids=['FCN', 'Faster']
)
def test_new_config_survives_being_moved_and_dumped(config, tmp_path):
    name = 'resnetv1c' if config == FCN else 'resnet'
    backbone = "type='ResNetV1c', depth=18" if config == FCN else "type='ResNet', depth=50"
    _, subnet, _ = classifier_of(backbone, 512 if 'v1c' in name else 2048, tmp_path)
    transfer(config, subnet, out=tmp_path / 'new.py')
    moved = (tmp_path / 'new.py').rename(tmp_path / 'moved.py')
    init = init_model if config == FCN else init_detector
    model = init(str(moved), device='cpu')
    assert model.backbone.layer4[0].conv1.out_channels == subnet['backbone.layer4.0.conv1']
    meta = dict(dataset_meta=dict(classes='ab', palette=[[0] * 3] * 2))
    weights = saved(model, tmp_path / 'weights.pth', meta=meta)
    dumped = tmp_path / 'dumped.py'
    Config.fromfile(moved).dump(dumped)
    again = init(str(dumped), weights, device='cpu').state_dict()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again[key])


def test_new_style_configs_and_keys_that_are_none(classifier, subnet, tmp_path):
    (tmp_path / 'lazy.py').write_text("""
from mmdet.models import FPN, DetDataPreprocessor, ResNet, RetinaHead, RetinaNet

default_scope = 'mmdet'
custom_imports = None
custom_hooks = None
model = dict(
    type=RetinaNet, data_preprocessor=dict(type=DetDataPreprocessor),
    backbone=dict(type=ResNet, depth=18, stem_channels=16, base_channels=16),
    neck=dict(type=FPN, in_channels=[16, 32, 64, 128], out_channels=32, num_outs=5),
    bbox_head=dict(type=RetinaHead, num_classes=3, in_channels=32, feat_channels=32))
""")
    made = transfer(tmp_path / 'lazy.py', subnet, out=tmp_path / 'half.py')
    assert 'import *' in (tmp_path / 'half.py').read_text()
    cfg = Config.fromfile(tmp_path / 'half.py')
    model = build_model(cfg)
    assert model.backbone.conv1.out_channels == classifier[1]['backbone.conv1']
    assert cfg.to_dict() == made.config.to_dict()


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ("model = dict(type='mmdet.DETR')", 'cannot build the model'),
        ('x = 1', 'has no model'),
        ('model = dict(', 'cannot read the config'),
    ],
)
def test_configs_that_cannot_be(text, message, subnet, tmp_path):
    path = tmp_path / 'old.py'
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        transfer(path, subnet, out=tmp_path / 'made/new.py')
    assert [p.name for p in tmp_path.rglob('*.py')] == ['old.py']


def test_the_old_config_is_not_overwritten(subnet, tmp_path):
    old = detector_of(tmp_path)
    text = Path(old).read_text()
    with pytest.raises(ConfigError, match='detector.py is the config to inherit from'):
        transfer(old, subnet, out=old)
    assert Path(old).read_text() == text


@pytest.mark.parametrize(
    ('backbone', 'message'),
    [
        (RESNET.replace('18', '34'), 'it has backbone.layer1.2.conv1'),
        (
            RESNET.replace('base_channels=16', 'base_channels=24'),
            'backbone.layer1.0.conv1 has 24 channels instead of 16',
        ),
        ("type='MobileNetV2', widen_factor=0.35, out_indices=(1, 2, 4, 7)", 'no layer is in both'),
    ],
    ids=['deeper', 'wider', 'MobileNetV2'],
)
def test_subnet_of_another_backbone(backbone, message, subnet, tmp_path):
    channels = [24, 48, 96, 192] if 'channels=24' in backbone else [16, 32, 64, 128]
    channels = [8, 16, 32, 1280] if 'Mobile' in backbone else channels
    config = write(tmp_path / 'detector.py', DETECTOR, BACKBONE=backbone, IN=channels, CLASSES=3)
    with pytest.raises(UserError, match=f'another backbone than .*subnet.json: {message}'):
        transfer(config, subnet, out=tmp_path / 'new.py')
    assert not (tmp_path / 'new.py').exists()


def test_a_deeper_subnet(subnet, tmp_path):
    _, deeper, _ = classifier_of(RESNET.replace('18', '34'), 128, tmp_path)
    with pytest.raises(UserError, match='it lacks layer1.2.conv1'):
        transfer(detector_of(tmp_path), deeper, out=tmp_path / 'new.py')


def test_widths_that_groups_cannot_have(classifier, subnet, tmp_path):
    """Group normalisation takes multiples of its groups' channels."""
    backbone = f"type='ResNet', {SMALL}".replace("type='BN'", "type='GN', num_groups=4")
    narrow = classifier[1].to_dict()
    narrow['widths'] = {name: 3 for name in narrow['widths']}
    with pytest.raises(UserError, match='cannot have these widths: .*in multiples of'):
        transfer(detector_of(tmp_path, backbone), narrow, out=tmp_path / 'new.py')


# Weights


def test_checkpoints_that_do_not_fit(classifier, subnet, tmp_path):
    full, _, cut = classifier
    state = cut.state_dict()
    state.pop('backbone.layer1.0.conv1.weight')
    torch.save(dict(state_dict=state), tmp_path / 'partial.pth')
    other = mmpse.cut(full, mmpse.units(full), 0.5)
    saved(other, tmp_path / 'other.pth')
    for name, message in (
        ('partial', '1 missing .backbone.layer1.0.conv1.weight'),
        ('other', 'nor is it one of the subnet: .* of another shape'),
        ('none', 'cannot read the checkpoint'),
    ):
        with pytest.raises(CheckpointError, match=message):
            transfer(detector_of(tmp_path), subnet, tmp_path / f'{name}.pth', tmp_path / 'bad.py')
    assert not list(tmp_path.glob('bad*'))


def is_free(cfg):
    backbone = build_model(cfg).train().backbone
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    free = {norm.training for norm in norms} | {p.requires_grad for p in backbone.parameters()}
    assert norms and free in ({True}, {True, False})
    return free == {True}


@pytest.mark.parametrize('weights', ['retrained', 'supernet', 'full', None])
@pytest.mark.parametrize('requires_grad', [True, False])
def test_frozen_layers_stay_frozen_with_the_subnets_own_weights_alone(
    weights, requires_grad, classifier, subnet, tmp_path
):
    """mmdet freezes the first stage, and all statistics: of use if they belong to the subnet."""
    backbone = (
        RESNET.replace("type='BN'", f"type='BN', requires_grad={requires_grad}")
        + ', frozen_stages=1'
    )
    full, _, cut = classifier
    file = None
    if weights:
        extra = dict(mmpse_supernet={}) if weights == 'supernet' else {}
        file = saved(full if weights == 'full' else cut, tmp_path / 'weights.pth', **extra)
    made = transfer(detector_of(tmp_path, backbone), subnet, file, tmp_path / 'new.py')
    assert is_free(made.config) == (weights != 'retrained') == (not made.frozen)


def test_public_weights_are_cut_to_the_subnet(tmp_path):
    public, file = torchvision.models.resnet18(), str(tmp_path / 'resnet18.pth')
    torch.save(public.state_dict(), file)
    _, subnet, _ = classifier_of(STOCK, 512, tmp_path)
    config = write(
        tmp_path / 'detector.py', DETECTOR, BACKBONE=STOCK, IN=[64, 128, 256, 512], CLASSES=3
    )
    made = transfer(config, subnet, file, tmp_path / 'new.py')
    assert is_free(made.config) and 'at random start neck, bbox_head' in made.weights
    weight = started(made.config, tmp_path).backbone.layer1[0].conv1.weight
    assert weight.shape[1] < 64
    assert torch.equal(weight, public.layer1[0].conv1.weight[: len(weight), : weight.shape[1]])


def constant(model, value, file, prefix=''):
    for tensor in model.state_dict().values():
        tensor.fill_(value)
    state = {f'{prefix}{key}': value for key, value in model.state_dict().items()}
    torch.save(dict(state_dict=state), file)
    return str(file)


@pytest.fixture
def loading(tmp_path):
    """A user's detector of three classes, fine-tuned from one of 80."""
    detector_of(tmp_path)
    file = tmp_path / 'user.py'
    file.write_text(
        '_base_ = "detector.py"\nload_from = "full.pth"\nresume = True\n'
        "model = dict(init_cfg=dict(type='Pretrained', checkpoint='nowhere.pth'),"
        " backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')))"
    )
    return str(file)


def test_the_old_loading_does_not_come_over_the_checkpoint(loading, classifier, subnet, tmp_path):
    file = constant(copy.deepcopy(classifier[2]), 0.75, tmp_path / 'retrained.pth')
    made = transfer(loading, subnet, file, tmp_path / 'new.py')
    assert 'at random start neck, bbox_head; without a place are head' in made.weights
    text = ''.join((tmp_path / 'new.py').read_text().replace('\n# ', '').split())
    assert ''.join(made.weights.split()) in text
    state = started(made.config, tmp_path).state_dict()
    assert all((v == 0.75).all() for k, v in state.items() if k.startswith('backbone.') and v.dim())
    assert not (state['neck.lateral_convs.0.conv.weight'] == 0.75).any()


@pytest.mark.parametrize('prefix', ['', 'module.', 'model.'])
@pytest.mark.parametrize('classes', [3, 80])
def test_a_detectors_checkpoint_is_used_as_a_whole(prefix, classes, loading, subnet, tmp_path):
    (tmp_path / 'other').mkdir()
    full = build_offline(load_config(detector_of(tmp_path / 'other', classes=classes)))
    file = constant(full, 0.25, tmp_path / 'full.pth', prefix)
    made = transfer(loading, subnet, file, tmp_path / 'new.py')
    random = made.weights.partition('; at random start ')[2].partition(';')[0]
    assert random == ('bbox_head.retina_cls' if classes == 80 else '')
    state = started(made.config, tmp_path).state_dict()
    assert state['backbone.layer4.0.conv1.weight'].shape[0] < 128
    for key, value in state.items():
        other = classes == 80 and 'retina_cls' in key
        assert (value == 0.25).all() != other or not value.is_floating_point(), key


def test_a_cut_detectors_own_checkpoint(loading, subnet, tmp_path):
    cut = build_model(transfer(loading, subnet, out=tmp_path / 'first.py').config)
    file = constant(cut, 0.5, tmp_path / 'cut.pth')
    made = transfer(loading, subnet, file, tmp_path / 'new.py')
    assert 'at random' not in made.weights and made.frozen
    state = started(made.config, tmp_path).state_dict()
    assert all((v == 0.5).all() for v in state.values() if v.is_floating_point())


# The command


def test_the_command(subnet, classifier, tmp_path, capsys):
    file = saved(classifier[2], tmp_path / 'retrained.pth')
    out = tmp_path / 'new.py'
    config = detector_of(tmp_path)
    main(['transfer', config, '--subnet', subnet, '--checkpoint', file, '-o', str(out)])
    said = capsys.readouterr().out
    assert said.startswith(f'{out}\nFLOPs of the whole model: ')
    assert f'weights: 120 tensors from {file}; at random start neck, bbox_head' in said
    assert 'nothing is frozen' not in said
    assert Subnet.load(Config.fromfile(out).model.subnet)['backbone.conv1'] > 0
    with pytest.raises(SystemExit, match='SubnetError: cannot read the subnet file no.json'):
        main(['transfer', config, '--subnet', 'no.json', '-o', str(out)])
