"""What all slimmable backbones share; what must hold for each family is in backbone_tester.py."""

import copy

import numpy as np
import pytest
import torch
from backbone_tester import draw
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm

from mmpse.models import (
    SliceError,
    SlimmableMobileNetV2,
    backbone_costs,
    find_backbone,
)
from mmpse.models.layers import ChunkedBatchNorm
from mmpse.registry import MODELS
from mmpse.space import Subnet, SubnetError

pytestmark = pytest.mark.usefixtures('device')


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


@pytest.mark.parametrize(
    ('dtype', 'tolerance'),
    [(torch.float64, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 1e-2)],
)
@pytest.mark.parametrize('size', [1, 7])
def test_chunks_are_normalised_as_batches_of_their_own(dtype, tolerance, size):
    """Against autograd through PyTorch's own normalisation, the activations far from zero."""
    x, grad = (torch.randn(8, 6, size, size) for _ in range(2))
    x = (x + 10).to(dtype, memory_format=torch.channels_last).requires_grad_()
    grad = grad.to(dtype, memory_format=torch.channels_last)
    weight, bias = (torch.rand(2, 6).to(torch.promote_types(dtype, torch.float32)) for _ in '12')
    weight[1, 3:] = bias[1, 3:] = 0  # dropped channels
    affine = weight.requires_grad_(), bias.requires_grad_()
    alone = [
        torch.nn.functional.batch_norm(part, None, None, w, b, training=True)
        for part, w, b in zip(x.chunk(2), *affine)
    ]
    expected = torch.autograd.grad(torch.cat(alone), (x, *affine), grad)
    output = ChunkedBatchNorm.apply(x, *affine, 1e-5)
    torch.testing.assert_close(output, torch.cat(alone))
    for value, target in zip(torch.autograd.grad(output, (x, *affine), grad), expected):
        error = (value - target).double().norm() / target.double().norm().clamp_min(1e-3)
        assert error < tolerance
    assert not output[4:, 3:].any()


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
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
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
    model = torch.nn.Sequential(SlimmableMobileNetV2(widen_factor=0.35))
    model = convert_sync_batchnorm(model)  # sync_bn='torch' in a config
    with pytest.raises(ValueError, match='became SyncBatchNorm, .* leave sync_bn out'):
        model[0].activate([model[0].search_space.tinynet], 'masked')


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
