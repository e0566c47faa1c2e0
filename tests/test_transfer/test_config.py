"""A subnet in the configs of mmdet and mmseg."""

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
from safetensors.torch import save_file

from mmpse.models import (
    SlimmableMobileNetV2,
    SlimmableResNet,
    backbone_costs,
    find_backbone,
)
from mmpse.openmmlab.errors import CheckpointError, ConfigError
from mmpse.registry import MODELS
from mmpse.transfer import TransferError, complexity, transfer
from mmpse.transfer.config import find_model, load_config, load_supernet, plan
from mmpse.transfer.survey import half_subnet

FCN = 'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py'
FASTER = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
CAFFE = 'mmdet::faster_rcnn/faster-rcnn_r50-caffe_fpn_1x_coco.py'  # norm_cfg freezes, too


def build_model(cfg):
    """As a runner builds it: with what its config loads."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return revert_sync_batchnorm(MODELS.build(cfg.model))


@pytest.fixture
def subnet(tmp_path):
    def write(family=SlimmableResNet, **kwargs):
        space = family(**kwargs).search_space
        return str(space.uniform(0.5).save(tmp_path / 'subnet.json'))

    return write


@pytest.mark.parametrize('config', [FCN, FASTER])
def test_new_config_survives_being_moved_and_dumped(config, subnet, tmp_path):
    depth = 18 if config == FCN else 50
    new = tmp_path / 'new.py'
    transfer(config, new, subnet(depth=depth, deep_stem=config == FCN))
    Path(subnet(depth=18)).unlink()
    moved = new.rename(tmp_path / 'moved.py')
    assert len(moved.read_text().splitlines()) < 60
    init = init_model if config == FCN else init_detector
    model = init(str(moved), device='cpu')
    widths = find_backbone(model).out_channels
    assert widths == ((32, 64, 128, 256) if config == FCN else (128, 256, 512, 1024))
    weights = tmp_path / 'weights.pth'
    torch.save(
        dict(
            state_dict=model.state_dict(),
            meta=dict(dataset_meta=dict(classes='ab', palette=[[0] * 3] * 2)),
        ),
        weights,
    )

    dumped = tmp_path / 'dumped.py'
    Config.fromfile(moved).dump(dumped)
    again = init(str(dumped), str(weights), device='cpu')
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_checkpoint_of_the_retrained_classifier(subnet, tmp_path):
    path = subnet(depth=18, deep_stem=True)
    retrained = SlimmableResNet(depth=18, deep_stem=True, subnet=path)
    state = {f'backbone.{k}': v for k, v in retrained.state_dict().items()}
    good, partial, other = (str(tmp_path / f'{n}.pth') for n in ('good', 'partial', 'other'))
    torch.save(dict(state_dict=dict(state, **{'head.fc.weight': torch.zeros(2, 2)})), good)
    new = transfer(FCN, tmp_path / 'new.py', path, good)
    model = build_model(new)
    model.init_weights()
    stem = model.backbone.stem[0].weight
    assert torch.equal(stem, retrained.stem[0].conv.weight)

    state.pop('backbone.layer1.0.conv1.weight')
    torch.save(dict(state_dict=state), partial)
    space = SlimmableResNet(depth=18, deep_stem=True).search_space
    state = SlimmableResNet(depth=18, deep_stem=True, subnet=space.uniform(0.7)).state_dict()
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in state.items()}), other)
    for checkpoint, message in (
        (partial, '1 weights are missing .layer1.0.conv1.weight'),
        (other, 'not a checkpoint of this subnet: cannot load'),
        (str(tmp_path / 'none.pth'), 'cannot read the checkpoint'),
    ):
        with pytest.raises((CheckpointError, TransferError), match=message):
            transfer(FCN, tmp_path / 'bad.py', path, checkpoint)
    assert {p.name for p in tmp_path.glob('*.py')} == {'new.py'}


def is_free(cfg):
    backbone = build_model(cfg).train().backbone
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    free = {norm.training for norm in norms} | {p.requires_grad for p in backbone.parameters()}
    assert norms and free in ({True}, {True, False})
    return free == {True}


def test_frozen_layers_stay_frozen_with_the_subnets_own_weights_alone(subnet, tmp_path):
    """mmdet freezes the first stage, and all statistics: of use if they belong to the subnet."""
    path, new = subnet(depth=50), tmp_path / 'new.py'
    supernet = SlimmableResNet(depth=50)
    retrained = SlimmableResNet(depth=50, subnet=path)
    files = dict(
        retrained=(retrained, {}),
        supernet=(retrained, dict(mmpse_supernet={})),  # though its widths are the subnet's
        full=(supernet, {}),
    )
    for name, (backbone, extra) in files.items():
        file = str(tmp_path / f'{name}.pth')
        state = {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
        torch.save(dict(state_dict=state, **extra), file)
        for config in (FASTER, CAFFE):
            assert is_free(transfer(config, new, path, file)) == (name != 'retrained')
    assert is_free(transfer(CAFFE, new, path))  # random ones


def test_public_weights_are_cut_to_the_subnet(subnet, tmp_path):
    public, file = torchvision.models.resnet50(), str(tmp_path / 'resnet50.pth')
    torch.save(public.state_dict(), file)
    cfg = transfer(FASTER, tmp_path / 'new.py', subnet(depth=50), file)
    assert is_free(cfg)
    model = build_model(Config.fromfile(tmp_path / 'new.py'))
    model.init_weights()
    weight = model.backbone.layer1[0].conv1.weight
    assert weight.shape[1] < 64
    assert torch.equal(weight, public.layer1[0].conv1.weight[: len(weight), : weight.shape[1]])

    timm = str(tmp_path / 'resnet50.safetensors')
    save_file(public.state_dict(), timm)
    cfg = transfer(FASTER, tmp_path / 'new.py', cfg.model.backbone.subnet, timm)
    assert cfg.model.backbone.init_cfg.type == 'mmpse.WarmStart'

    torch.save(torchvision.models.resnet18().state_dict(), file)
    with pytest.raises(TransferError, match='does not fit .* missing'):
        transfer(FASTER, tmp_path / 'bad.py', subnet(depth=50), file)


@pytest.mark.parametrize(
    'config',
    [
        'mmdet::ssd/ssd300_coco.py',
        'mmseg::mobilenet_v2/mobilenet-v2-d8_fcn_4xb2-80k_cityscapes-512x1024.py',
        'mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py',
    ],
)
def test_cost_of_backbones_with_other_layers_than_the_classifiers(config, tmp_path):
    old = load_config(config)
    subnet = half_subnet(find_model(old, config)[1].backbone)
    cfg = transfer(config, tmp_path / 'new.py', subnet)
    for cost, of_full in complexity(cfg).values():
        assert 0.2 * of_full < cost < 0.7 * of_full


def test_supernet_of_a_segmentor(tmp_path):
    cfg = transfer(FCN, tmp_path / 'supernet.py')
    backbone = find_backbone(build_model(cfg))
    assert backbone.subnet is None and cfg.custom_hooks[-1]['type'] == 'mmpse.SupernetHook'
    assert cfg.val_dataloader is cfg.val_cfg is cfg.test_evaluator is None
    with backbone.active([backbone.search_space.tinynet]):
        assert backbone(torch.zeros(1, 3, 32, 32))[-1].shape[1] == 512


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ("model = dict(type='RetinaNet')", r'model \(RetinaNet\) has no backbone'),
        ('x = 1', 'has no model'),
        ("model = dict(type='RetinaNet', backbone=dict(type='SwinTransformer'))", 'SwinTransfor'),
        (
            "model = dict(type='RetinaNet', backbone=dict(type='ResNeXt'))",
            'ResNeXt; backbones that',
        ),
        ('model = dict(', 'cannot read the config'),
        (
            "_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\n"
            'model = dict(backbone=dict(frozen_stages=6))',
            'frozen_stages is 6, but ResNet has stages up to 4',
        ),
        (
            "_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\n"
            'model = dict(backbone=dict(out_indices=(1, 4)))',
            r'out_indices is \(1, 4\), but ResNet has features 0 to 3',
        ),
        (
            "_base_ = 'mmdet::dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py'\n"
            "model = dict(backbone=dict(plugins=[dict(cfg=dict(type='NonLocal2d'), "
            "position='after_conv3')]))",
            'backbone.plugins adds NonLocal2d',
        ),
    ],
)
def test_configs_that_cannot_be(text, message, subnet, tmp_path):
    path = tmp_path / 'old.py'
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        transfer(str(path), tmp_path / 'made/new.py', subnet(depth=50))
    assert [p.name for p in tmp_path.rglob('*.py')] == ['old.py']
    assert not (tmp_path / 'made').exists()


def test_complexity_is_that_of_the_supernet(subnet, tmp_path):
    cfg = transfer(FCN, tmp_path / 'new.py', subnet(depth=18, deep_stem=True))
    backbone = find_backbone(build_model(transfer(FCN, tmp_path / 'supernet.py')))
    space, costs = backbone.search_space, backbone_costs(backbone, (3, 64, 64))
    half = find_backbone(build_model(cfg)).subnet
    expected = {k: tuple(cost(space.array([half, space.fullnet]))) for k, cost in costs.items()}
    counted = complexity(cfg, (3, 64, 64))
    assert counted == {'FLOPs': expected['flops'], 'parameters': expected['params']}
    assert counted['FLOPs'][0] < 0.5 * counted['FLOPs'][1]


def test_the_old_config_is_not_overwritten(subnet, tmp_path):
    old = tmp_path / 'old.py'
    old.write_text(f"_base_ = '{FASTER}'\n")
    with pytest.raises(ConfigError, match='old.py is the config to inherit from'):
        transfer(str(old), old, subnet(depth=50))
    assert old.read_text() == f"_base_ = '{FASTER}'\n"


@pytest.mark.parametrize(
    ('family', 'arguments', 'key'),
    [
        (SlimmableResNet, dict(depth=34, deep_stem=True), 'depth'),
        (SlimmableResNet, dict(depth=18), 'deep_stem'),
        (SlimmableMobileNetV2, {}, 'type'),
    ],
)
def test_subnet_of_another_backbone(family, arguments, key, subnet, tmp_path):
    path = subnet(family, **arguments)
    with pytest.raises(ConfigError, match='SubnetError: .*is of another backbone'):
        transfer(FCN, tmp_path / 'new.py', path)
    assert not list(tmp_path.glob('*.py'))


# What is said to be loaded is loaded


def at_the_first_iteration(cfg, tmp_path):
    """The weights of a runner's model when training starts."""
    for split in ('train', 'val', 'test'):
        for what in ('dataloader', 'cfg', 'evaluator'):
            cfg[f'{split}_{what}'] = None
    cfg.optim_wrapper = cfg.param_scheduler = cfg.visualizer = None
    cfg.work_dir, cfg.log_level = str(tmp_path / 'work'), 'ERROR'
    runner = Runner.from_cfg(cfg)
    runner._init_model_weights()
    runner.load_or_resume()
    return runner.model.state_dict()


R18 = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'


def constant(model, value, file, prefix=''):
    for tensor in model.state_dict().values():
        tensor.fill_(value)
    state = {f'{prefix}{key}': value for key, value in model.state_dict().items()}
    torch.save(dict(state_dict=state), file)
    return str(file)


@pytest.fixture
def detector(tmp_path):
    """A user's detector of three classes, fine-tuned from one of 80."""
    file = tmp_path / 'detector.py'
    file.write_text(
        f'_base_ = {R18!r}\nload_from = "full.pth"\nresume = True\n'
        "model = dict(init_cfg=dict(type='Pretrained', checkpoint='nowhere.pth'),"
        ' bbox_head=dict(num_classes=3))'
    )
    return str(file)


def test_the_old_loading_does_not_come_over_the_checkpoint(detector, subnet, tmp_path):
    path = subnet(depth=18)
    retrained = SlimmableResNet(depth=18, subnet=path)
    file = constant(retrained, 0.75, tmp_path / 'retrained.pth', 'backbone.')
    made = plan(detector, path, file)
    assert made.weights == f'{file} for the backbone; at random start neck, bbox_head'
    cfg = transfer(detector, tmp_path / 'new.py', path, file)
    text = (tmp_path / 'new.py').read_text().replace('\n# ', '')  # where a line is wrapped
    assert made.weights.replace(' ', '') in text.replace(' ', '')
    state = at_the_first_iteration(cfg, tmp_path)
    assert all((v == 0.75).all() for k, v in state.items() if k.startswith('backbone.') and v.dim())
    assert not (state['neck.lateral_convs.0.conv.weight'] == 0.75).any()


@pytest.mark.parametrize('prefix', ['', 'module.', 'model.'])
@pytest.mark.parametrize('classes', [3, 80])
def test_a_detectors_checkpoint_is_used_as_a_whole(prefix, classes, detector, subnet, tmp_path):
    """Issue: its neck and head were left out without a word."""
    full = build_model(load_config(R18 if classes == 80 else detector))
    file = constant(full, 0.25, tmp_path / 'full.pth', prefix)
    path = subnet(depth=18)
    made = plan(detector, path, file)
    random = '; at random start bbox_head.retina_cls' if classes == 80 else ''
    assert made.weights == f'{file} for the whole model{random}'
    state = at_the_first_iteration(transfer(detector, tmp_path / 'new.py', path, file), tmp_path)
    assert state['backbone.layer1.0.conv1.weight'].shape[0] < 64
    for key, value in state.items():
        other = classes == 80 and 'retina_cls' in key
        assert (value == 0.25).all() != other or not value.is_floating_point()


def test_new_style_configs_and_keys_that_are_none(subnet, tmp_path):
    (tmp_path / 'lazy.py').write_text("""
from mmdet.models import FPN, DetDataPreprocessor, ResNet, RetinaHead, RetinaNet

default_scope = 'mmdet'
custom_imports = None
custom_hooks = None
model = dict(
    type=RetinaNet, data_preprocessor=dict(type=DetDataPreprocessor),
    backbone=dict(type=ResNet, depth=18, norm_cfg=dict(type='GN', num_groups=32)),
    neck=dict(type=FPN, in_channels=[64, 128, 256, 512], out_channels=32, num_outs=5),
    bbox_head=dict(type=RetinaHead, num_classes=3, in_channels=32, feat_channels=32))
""")
    old = str(tmp_path / 'lazy.py')
    cfg = transfer(old, tmp_path / 'half.py', subnet(depth=18, divisor=32))
    assert 'import *' in (tmp_path / 'half.py').read_text()
    assert find_backbone(build_model(cfg)).out_channels == (32, 64, 128, 256)
    backbone = find_backbone(build_model(transfer(old, tmp_path / 'supernet.py')))
    assert isinstance(backbone.bn1, torch.nn.BatchNorm2d) and backbone.subnet is None


def test_every_tool_reads_what_transfer_reads(detector):
    cfg = load_supernet(detector)
    assert cfg.model.backbone.type == 'mmpse.Slimmable'
    assert load_supernet(cfg).to_dict() == cfg.to_dict()
    inner = load_supernet(
        'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
    )
    assert inner.model.type == 'mmpse.FitToBackbone' and inner.model.architecture == 'FasterRCNN'
