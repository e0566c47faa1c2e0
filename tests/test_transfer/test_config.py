"""A subnet in the configs of mmdet and mmseg."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from mmdet.apis import init_detector
from mmengine.config import Config
from mmseg.apis import init_model

from mmpse.models import (
    SlimmableMobileNetV2,
    SlimmableResNet,
    SlimmableVGG,
    UnsupportedBackboneError,
    backbone_costs,
    costs_of,
    count,
    find_backbone,
)
from mmpse.registry import MODELS
from mmpse.space import Subnet, SubnetError
from mmpse.transfer import TransferError, complexity, survey, transfer
from mmpse.transfer.config import build_model, find_model, load_config, rewrite
from mmpse.transfer.survey import half_subnet, run

FCN = 'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py'
FASTER = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
CAFFE = 'mmdet::faster_rcnn/faster-rcnn_r50-caffe_fpn_1x_coco.py'  # norm_cfg freezes, too


@pytest.fixture
def subnet(tmp_path):
    def write(family=SlimmableResNet, **kwargs):
        space = family(**kwargs).search_space
        return str(space.uniform(0.5).save(tmp_path / 'subnet.json'))

    return write


# Faithful: the backbone in the new config is that of the old one


BACKBONES = {
    'mmdet.ResNet': dict(depth=18, style='caffe'),
    'mmdet.ResNetV1d': dict(depth=18),
    'mmseg.ResNetV1c': dict(
        depth=18, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True
    ),
    'mmseg.MobileNetV2': dict(strides=(1, 2, 2, 1, 1, 1, 1), dilations=(1, 1, 1, 2, 2, 4, 4)),
    'mmdet.MobileNetV2': dict(out_indices=(2, 4, 7)),
    'mmdet.SSDVGG': dict(depth=11, out_feature_indices=(13, 24)),
    'mmpretrain.ResNet': dict(depth=18, out_indices=(0, 3)),
}


def evaluated(backbone):
    backbone.eval()  # some of theirs return nothing here
    return backbone


def of_mmpretrain(kind, **kwargs):
    if kind.endswith('VGG'):
        return SlimmableVGG(depth=11, norm_cfg=None, **kwargs)
    if kind.endswith('V2'):
        return SlimmableMobileNetV2(**kwargs)
    return SlimmableResNet(depth=18, deep_stem='V1' in kind, avg_down='V1d' in kind, **kwargs)


@pytest.mark.parametrize('kind', BACKBONES)
def test_backbone_is_the_original(kind):
    stock = evaluated(MODELS.build(dict(BACKBONES[kind], type=kind)))
    for norm in stock.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    space = of_mmpretrain(kind).search_space
    config = dict(BACKBONES[kind], type='mmpse.Slimmable', architecture=kind)
    full = evaluated(MODELS.build(dict(config, subnet=space.fullnet.to_dict())))
    full.load_state_dict(stock.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for feature, expected in zip(full(x), stock(x), strict=True):
            torch.testing.assert_close(feature, expected, rtol=1e-5, atol=1e-5)

    small = evaluated(MODELS.build(dict(config, subnet=space.uniform(0.5).to_dict())))
    small.load_state_dict(stock.state_dict())  # sliced
    features = small(x)
    assert [f.shape[1] for f in features] == list(small.out_channels)
    again = evaluated(MODELS.build(dict(config, subnet=space.uniform(0.5).to_dict())))
    again.load_state_dict(small.state_dict())
    torch.testing.assert_close(again(x), features)


@pytest.mark.parametrize('kind', ['mmdet.ResNetV1d', 'mmdet.MobileNetV2', 'mmdet.SSDVGG'])
def test_backbone_loads_what_mmpretrain_retrained(kind):
    """The names of their modules differ."""
    subnet = of_mmpretrain(kind).search_space.uniform(0.5).to_dict()
    retrained = evaluated(of_mmpretrain(kind, subnet=subnet, out_indices=(0, 3)))
    config = dict(BACKBONES[kind], type='mmpse.Slimmable', architecture=kind, subnet=subnet)
    if kind.endswith('VGG'):
        config['out_feature_indices'] = (1, 17)
    else:
        config['out_indices'] = (0, 3)
    backbone = evaluated(MODELS.build(config))
    backbone.load_state_dict(retrained.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 64)
    if kind.endswith('VGG'):  # theirs pools behind a stage
        theirs, ours = retrained.features[0](x), backbone.features[:2](x)
        torch.testing.assert_close(ours, theirs)
    else:
        torch.testing.assert_close(backbone(x), retrained(x))


@pytest.mark.parametrize(
    ('plugin', 'position', 'layer'),
    [
        (dict(type='ContextBlock', ratio=0.25), 3, 'channel_add_conv.3'),
        (
            dict(
                type='GeneralizedAttention',
                attention_type='1111',
                num_heads=4,
                position_embedding_dim=256,
            ),
            2,
            'proj_conv',
        ),
    ],
    ids=['GCNet', 'empirical attention'],
)
def test_plugins_between_the_convolutions(plugin, position, layer):
    """A static subnet computes what the full network does with the missing channels at zero."""
    plugins = [
        dict(cfg=plugin, stages=(False, False, True, True), position=f'after_conv{position}')
    ]
    config = dict(type='mmpse.Slimmable', architecture='mmdet.ResNet', depth=50, plugins=plugins)
    space = SlimmableResNet(depth=50).search_space
    full, small = (
        MODELS.build(dict(config, subnet=subnet.to_dict()))
        for subnet in (space.fullnet, space.uniform(0.5))
    )
    with torch.no_grad():
        for name, parameter in full.named_parameters():
            if layer in name or name.endswith('gamma'):  # they start at zero
                parameter.normal_(0, 0.1)
        small.load_state_dict(full.state_dict())
        for unit in full.layers_of_units:
            width = small.subnet[unit.outputs]
            norm = full.get_submodule(unit.norm)
            norm.weight[width:] = norm.bias[width:] = 0
        for name, module in full.named_modules():
            if name.endswith(layer):
                width = small.get_submodule(name).out_channels
                assert width < module.out_channels
                module.weight[width:] = 0
                if module.bias is not None:
                    module.bias[width:] = 0
        evaluated(full), evaluated(small)
        x = torch.randn(1, 3, 64, 64)
        for feature, whole in zip(small(x), full(x), strict=True):
            width = feature.shape[1]
            scale = whole.abs().max()
            torch.testing.assert_close(feature / scale, whole[:, :width] / scale)
            assert not whole[:, width:].any()


def test_no_supernet_with_plugins():
    plugins = [dict(cfg=dict(type='ContextBlock', ratio=0.25), position='after_conv3')]
    with pytest.raises(UnsupportedBackboneError, match='plugins cannot be a supernet'):
        MODELS.build(
            dict(type='mmpse.Slimmable', architecture='mmdet.ResNet', depth=50, plugins=plugins)
        )


def test_the_beginning_of_a_backbone_takes_the_subnet_of_the_whole():
    subnet = SlimmableResNet(depth=18).search_space.uniform(0.5)
    config = dict(type='mmpse.Slimmable', architecture='mmdet.ResNet', depth=18, num_stages=3)
    backbone = MODELS.build(
        dict(config, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,), subnet=subnet)
    )
    assert backbone.out_channels == (subnet['layer3'],)
    assert 'layer4' not in backbone.subnet and backbone.subnet['layer2'] == subnet['layer2']


# The command


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
        with pytest.raises(TransferError, match=message):
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


def test_backbone_without_the_last_layers_takes_subnets_of_its_own(tmp_path):
    """mmseg's MobileNetV2 ends earlier: as a supernet it has a unit less than mmpretrain's."""
    config = dict(type='mmpse.Slimmable', architecture='mmseg.MobileNetV2')
    supernet = MODELS.build(config)
    assert 'conv2' not in supernet.search_space.names
    subnet = supernet.search_space.uniform(0.5)
    static = MODELS.build(dict(config, subnet=Subnet.from_dict(subnet.to_dict())))
    assert static.subnet == subnet
    counted = count(static, (3, 64, 64))
    costs = backbone_costs(supernet, (3, 64, 64))
    assert costs_of(supernet.search_space, costs, subnet) == counted


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
    with pytest.raises(TransferError, match='old.py is the old config'):
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
    with pytest.raises(SubnetError, match='is of another backbone'):
        transfer(FCN, tmp_path / 'new.py', path)
    assert not list(tmp_path.glob('*.py'))


# One config of every kind of model: loss, prediction and reload


KINDS = [
    'mmdet::atss/atss_r50_fpn_1x_coco.py',
    'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'mmdet::detr/detr_r50_8xb2-150e_coco.py',
    'mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py',
    'mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py',
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'mmdet::mask2former_vis/mask2former_r50_8xb2-8e_youtubevis2021.py',
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'mmdet::reid/reid_r50_8xb32-6e_mot17train80_test-mot17val20.py',
    'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
    'mmdet::ssd/ssd300_coco.py',
    'mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py',
    'mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::mobilenet_v2/mobilenet-v2-d8_fcn_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::upernet/upernet_r18_4xb2-40k_cityscapes-512x1024.py',
]


@pytest.mark.parametrize('config', KINDS)
def test_every_kind_of_model(config):
    old = load_config(config)
    _, model = find_model(old, config)
    cfg = Config.fromstring(rewrite(config, old, half_subnet(model.backbone)), '.py')
    run(cfg.model, cfg.default_scope)


@pytest.mark.slow
def test_the_survey_goes_on_where_it_stopped(tmp_path):
    out = tmp_path / 'results.json'
    first = survey('mmseg', out, keep='fcn/fcn_r18')
    assert len(first) > 1 and {r['error'] for r in first.values()} == {None}
    known = dict(list(first.items())[:1])
    name = next(iter(known))
    known[name] = dict(known[name], backbone='as it was written')
    out.write_text(json.dumps(known))
    again = survey('mmseg', out, keep='fcn/fcn_r18')
    assert again.pop(name)['backbone'] == 'as it was written'
    assert again.keys() == first.keys() - {name}
