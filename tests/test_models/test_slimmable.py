"""The central invariants: many subnets in one pass = each alone as a static network."""

import copy

import mmpretrain.models
import numpy as np
import pytest
import torch
from mmengine.analysis import FlopAnalyzer, parameter_count
from mmengine.config import Config

from mmpse.models import (
    SliceError,
    SlimmableMobileNetV2,
    SlimmableResNet,
    SlimmableVGG,
    backbone_costs,
    find_backbone,
)
from mmpse.registry import MODELS
from mmpse.space import SpreadSampler, Subnet, SubnetError

SMALL = dict(stem_channels=16, base_channels=16)
# every family: the type, its stock counterpart, arguments
FAMILIES = [
    pytest.param(SlimmableMobileNetV2, mmpretrain.models.MobileNetV2, arguments, id=name)
    for name, arguments in {
        'MobileNetV2-0.35': dict(widen_factor=0.35, out_indices=(1, 2, 4, 7)),
        'MobileNetV2-1.5': dict(widen_factor=1.5, out_indices=(0, 6)),
    }.items()
]
FAMILIES += [
    pytest.param(SlimmableResNet, mmpretrain.models.ResNet, arguments, id=name)
    for name, arguments in {
        'ResNet-18': dict(depth=18, out_indices=(0, 1, 2, 3), **SMALL),
        'ResNet-50': dict(depth=50, out_indices=(1, 3), **SMALL),
        'ResNet-50-caffe-dilated': dict(
            depth=50, style='caffe', strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), **SMALL
        ),
        'ResNetV1d-50': dict(depth=50, deep_stem=True, avg_down=True, **SMALL),
    }.items()
]
FAMILIES += [
    pytest.param(SlimmableVGG, mmpretrain.models.VGG, arguments, id=name)
    for name, arguments in {
        'VGG11-BN': dict(depth=11, norm_cfg=dict(type='BN'), out_indices=(2, 4)),
        'VGG13': dict(depth=13, norm_cfg=None, with_last_pool=False),
    }.items()
]
families = pytest.mark.parametrize(('family', 'stock', 'arguments'), FAMILIES)


def draw(backbone, rng, count):
    space = backbone.search_space
    sampler = SpreadSampler(space, backbone_costs(backbone)['flops'])
    return [space.subnet(row) for row in sampler.sample(rng, count)]


def train_mode_pass(run, parameters):
    """Features of a pass, and gradients of a fixed random projection of them."""
    for p in parameters.values():
        p.grad = None
    features = run()
    generator = torch.Generator().manual_seed(1)
    loss = 0
    for f in features:
        weights = torch.randn(f.shape, generator=generator, dtype=f.dtype)
        loss = loss + (f * weights).sum()
    loss.backward()
    zero = torch.zeros(())
    return features, {n: zero if p.grad is None else p.grad.clone() for n, p in parameters.items()}


def assert_close(actual, expected, floor=1e-30):
    scale = expected.abs().max().clamp_min(floor)
    assert ((actual - expected).abs().max() / scale).item() < 1e-9


def assert_gradients_close(actual, expected):
    # a shift in front of another normalisation has a zero gradient: only rounding is left of it
    floor = 1e-6 * max(g.abs().max().item() for g in expected.values())
    for name, gradient in expected.items():
        assert_close(actual[name], gradient, floor)


@families
@pytest.mark.parametrize('layout', ['NCHW', 'channels_last'])
def test_masked_pass_is_sliced_pass_is_static_subnets(family, stock, arguments, layout, rng):
    layout = torch.channels_last if layout == 'channels_last' else torch.contiguous_format
    backbone = family(**arguments).double().to(memory_format=layout)
    space = backbone.search_space
    subnets = [space.fullnet, space.tinynet, *draw(backbone, rng, 2)]
    x = torch.randn(8, 3, 64, 64, dtype=torch.double).to(memory_format=layout)
    parameters = dict(backbone.named_parameters())
    backbone.train()

    results = {}
    for execution in ('masked', 'sliced'):
        with backbone.active(subnets, execution):
            results[execution] = train_mode_pass(lambda: backbone(x), parameters)
    features, gradients = results['masked']
    for a, b in zip(features, results['sliced'][0], strict=True):
        assert_close(a, b)
    assert_gradients_close(results['sliced'][1], gradients)

    # n separately built static networks, each on its own images
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(f.shape, generator=generator, dtype=f.dtype) for f in features]
    summed = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for g, subnet in enumerate(subnets):
        static = family(subnet=subnet, **arguments).double()
        static.load_state_dict(backbone.state_dict())
        static.train()
        loss = 0
        for f, full, w in zip(static(x[g::4]), features, weights, strict=True):
            assert_close(full[g::4, : f.shape[1]], f)
            assert full[g::4, f.shape[1] :].abs().sum() == 0
            loss = loss + (f * w[g::4, : f.shape[1]]).sum()
        loss.backward()
        for name, p in static.named_parameters():
            if p.grad is not None:
                summed[name][tuple(slice(0, size) for size in p.shape)] += p.grad
    assert_gradients_close(gradients, summed)


@families
def test_fullnet_is_the_stock_network_bit_for_bit(family, stock, arguments):
    stock = stock(**arguments)
    for module in stock.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
    ours = family(**arguments)
    assert list(ours.state_dict()) == list(stock.state_dict())
    ours.load_state_dict(stock.state_dict())
    x = torch.randn(2, 3, 64, 64)
    stock.eval()
    ours.eval()
    for a, b in zip(ours(x), stock(x), strict=True):
        assert torch.equal(a, b)


def test_static_subnet_is_the_supernet_with_its_masks(rng):
    supernet = SlimmableMobileNetV2(out_indices=(2, 7)).double()
    for module in supernet.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    (subnet,) = draw(supernet, rng, 1)
    static = SlimmableMobileNetV2(subnet=subnet, out_indices=(2, 7)).double()
    static.load_state_dict(supernet.state_dict())
    supernet.eval()
    static.eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    with torch.no_grad(), supernet.active([subnet], 'masked'):
        for full, small in zip(supernet(x), static(x), strict=True):
            assert_close(full[:, : small.shape[1]], small)


@families
def test_costs_equal_mmengine_on_the_static_subnet(family, stock, arguments, rng):
    supernet = family(**arguments)
    costs = backbone_costs(supernet, (3, 96, 64))
    space = supernet.search_space
    for subnet in [space.fullnet, space.tinynet, *draw(supernet, rng, 6)]:
        static = family(subnet=subnet, **arguments)
        static.eval()
        counter = FlopAnalyzer(static, torch.zeros(1, 3, 96, 64))
        counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        row = space.array([subnet])
        assert costs['flops'](row)[0] == counter.total()
        assert costs['params'](row)[0] == parameter_count(static)['']


@families
def test_static_subnet_says_its_real_widths(family, stock, arguments, rng):
    supernet = family(**arguments)
    (subnet,) = draw(supernet, rng, 1)
    static = family(subnet=subnet, **arguments)
    features = static(torch.randn(2, 3, 64, 64))
    assert static.out_channels == tuple(f.shape[1] for f in features)
    for module in static.modules():  # no number is left from the full network
        if isinstance(module, torch.nn.Conv2d):
            assert module.weight.shape[0] == module.out_channels
            assert module.weight.shape[1] * module.groups == module.in_channels
            assert type(module) is torch.nn.Conv2d
        if type(module).__name__ == 'ConvModule':
            assert module.out_channels == module.conv.out_channels
            assert module.groups == module.conv.groups


def test_stock_arguments_work_on_supernet_and_static_subnet(rng):
    supernet = SlimmableMobileNetV2(frozen_stages=2, norm_eval=True)
    subnet = supernet.search_space.uniform(0.5)
    static = SlimmableMobileNetV2(subnet=subnet, frozen_stages=2, norm_eval=True, with_cp=True)
    for backbone in (supernet, static):
        backbone.train()
        frozen = [n for n, p in backbone.named_parameters() if not p.requires_grad]
        assert {n.split('.')[0] for n in frozen} == {'conv1', 'layer1', 'layer2'}
        norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms and not any(m.training for m in norms)
    x = torch.randn(2, 3, 32, 32)
    plain = SlimmableMobileNetV2(subnet=subnet, frozen_stages=2, norm_eval=True)
    plain.load_state_dict(static.state_dict())
    plain.train()
    assert torch.allclose(static(x)[0], plain(x)[0])
    static(x)[0].sum().backward()  # through gradient checkpointing


def test_frozen_stages_in_a_supernet_normalise_by_running_statistics(rng):
    supernet = SlimmableMobileNetV2(frozen_stages=3).double()
    subnets = draw(supernet, rng, 2)
    x = torch.randn(8, 3, 64, 64, dtype=torch.double)
    supernet.train()
    outputs = []
    for execution in ('masked', 'sliced'):
        with supernet.active(subnets, execution):
            outputs.append(supernet(x)[0])
    assert_close(*outputs)


def test_active_subnets_leave_running_statistics_alone():
    supernet = SlimmableMobileNetV2()
    before = copy.deepcopy(supernet.state_dict())
    supernet.train()
    for execution in ('masked', 'sliced'):
        with supernet.active([supernet.search_space.fullnet], execution):
            supernet(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(before[k], v) for k, v in supernet.state_dict().items())
    supernet(torch.randn(2, 3, 64, 64))  # the plain network tracks them
    assert not torch.equal(before['conv1.bn.running_mean'], supernet.conv1.bn.running_mean)


def test_masked_execution_with_gradient_checkpointing(rng):
    plain = SlimmableMobileNetV2().double()
    saving = SlimmableMobileNetV2(with_cp=True).double()
    saving.load_state_dict(plain.state_dict())
    subnets = draw(plain, rng, 2)
    x = torch.randn(4, 3, 32, 32, dtype=torch.double)
    for backbone in (plain, saving):
        backbone.train()
        with backbone.active(subnets, 'masked'):
            backbone(x)[0].square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        assert_close(a.grad, b.grad)
    with pytest.raises(ValueError, match="with_cp=True .* execution='masked'"):
        saving.activate(subnets, 'sliced')


def test_residual_streams_share_a_unit_even_across_stages():
    # so narrow that neighbouring stages have equal widths: residual sums join them
    narrow = SlimmableMobileNetV2(widen_factor=0.1)
    subnet = narrow.search_space.tinynet
    SlimmableMobileNetV2(widen_factor=0.1, subnet=subnet)(torch.randn(2, 3, 64, 64))


def test_loads_own_and_supernet_weights_only(rng):
    supernet = SlimmableMobileNetV2()
    subnet, other = draw(supernet, rng, 2)
    static = SlimmableMobileNetV2(subnet=subnet)
    static.load_state_dict(supernet.state_dict())
    again = SlimmableMobileNetV2(subnet=subnet)
    again.load_state_dict(static.state_dict())
    assert torch.equal(again.conv2.conv.weight, static.conv2.conv.weight)
    for wrong in (SlimmableMobileNetV2(subnet=other), SlimmableMobileNetV2(widen_factor=1.5)):
        with pytest.raises(SliceError, match='of another subnet or another backbone width'):
            static.load_state_dict(wrong.state_dict())
    with pytest.raises(SliceError, match='another backbone width'):
        supernet.load_state_dict(SlimmableMobileNetV2(widen_factor=1.5).state_dict())


def test_supernet_weights_are_sliced_from_a_file(tmp_path):
    supernet = SlimmableMobileNetV2(widen_factor=0.35)
    path = tmp_path / 'supernet.pth'
    torch.save(
        dict(state_dict={f'backbone.{k}': v for k, v in supernet.state_dict().items()}), path
    )
    subnet = supernet.search_space.uniform(0.5)
    static = SlimmableMobileNetV2(
        widen_factor=0.35,
        subnet=subnet,
        init_cfg=dict(type='Pretrained', checkpoint=str(path), prefix='backbone.'),
    )
    static.init_weights()
    weight = supernet.conv2.conv.weight
    assert torch.equal(static.conv2.conv.weight, weight[: subnet['conv2'], : subnet['layer7']])


def test_subnet_of_another_backbone(tmp_path):
    path = SlimmableMobileNetV2(widen_factor=1.5).search_space.fullnet.save(tmp_path / 's.json')
    with pytest.raises(SubnetError, match=r'backbone.widen_factor is 1.5, the config builds 1.0'):
        SlimmableMobileNetV2(subnet=str(path))


def test_subnet_of_another_grid_brings_its_grid():
    supernet = SlimmableMobileNetV2(ratios=[0.33, 1.0], divisor=4)
    subnet = supernet.search_space.tinynet
    static = SlimmableMobileNetV2(subnet=Subnet.from_dict(subnet.to_dict()))
    assert static.subnet['conv2'] == subnet['conv2'] == 424


def test_part_of_the_backbone_is_not_pruned(tmp_path):
    """From a config to the static subnet: frozen units, and a file that brings its grids."""
    config = tmp_path / 'config.py'
    grids = {'layer4*': dict(ratios=[1.0]), 'stem': dict(divisor=16)}
    config.write_text(f'backbone = dict(type="mmpse.SlimmableResNet", depth=18, grids={grids})')
    backbone = Config.fromfile(config).backbone.to_dict()
    supernet = MODELS.build(backbone)
    tinynet = supernet.search_space.tinynet
    assert {u: w for u, w in tinynet.items() if u.startswith('layer4')} == {
        'layer4.0.1': 512,
        'layer4': 512,
        'layer4.1.1': 512,
    }
    assert tinynet['stem'] == 16 and tinynet['layer2'] == 24
    path = str(tinynet.save(tmp_path / 'subnet.json'))
    for arguments in (dict(), dict(grids={'stem': dict(ratios=[1.0])})):  # the file's hold
        static = MODELS.build({**backbone, **arguments, 'subnet': path})
        assert static.layer4[1].conv2.out_channels == 512 and static.conv1.out_channels == 16
    fitted = MODELS.build(
        dict(
            type='mmpse.FitToBackbone',
            architecture='mmpretrain.ImageClassifier',
            backbone=dict(type='mmpse.SlimmableResNet', depth=18, subnet=path),
            head=dict(type='mmpretrain.LinearClsHead', num_classes=2, in_channels=1),
        )
    )
    assert fitted.head.fc.in_features == 512


def test_bad_activation():
    supernet = SlimmableMobileNetV2(widen_factor=0.35)
    fullnet = supernet.search_space.fullnet
    with pytest.raises(ValueError, match="must be one of .*'sliced'.* got 'parallel'"):
        supernet.activate([fullnet], 'parallel')
    with pytest.raises(ValueError, match='at least one subnet'):
        supernet.activate([])
    with (
        supernet.active([fullnet] * 3),
        pytest.raises(ValueError, match='batch of 4 images cannot be shared by 3 subnets'),
    ):
        supernet(torch.randn(4, 3, 32, 32))
    static = SlimmableMobileNetV2(widen_factor=0.35, subnet=fullnet)
    with pytest.raises(ValueError, match='is a static subnet'):
        static.activate([fullnet])


def test_normalisation_that_a_supernet_cannot_use():
    with pytest.raises(ValueError, match="norm_cfg type 'BN', got .*SyncBN"):
        SlimmableMobileNetV2(norm_cfg=dict(type='SyncBN'))


def test_find_backbone():
    model = torch.nn.Sequential(SlimmableMobileNetV2(widen_factor=0.35))
    assert find_backbone(model) is model[0]
    with pytest.raises(ValueError, match='expected one slimmable backbone in Linear, found 0'):
        find_backbone(torch.nn.Linear(1, 1))


def test_misspelt_argument_is_named():
    with pytest.raises(TypeError, match="unexpected keyword argument 'widen_facto'"):
        MODELS.build(dict(type='mmpse.SlimmableMobileNetV2', widen_facto=1.5))


def test_draws_are_spread():
    backbone = SlimmableMobileNetV2(widen_factor=0.35)
    flops = backbone_costs(backbone)['flops']
    rows = backbone.search_space.array(draw(backbone, np.random.default_rng(0), 200))
    assert flops(rows).std() > 0.15 * flops(rows).mean()
