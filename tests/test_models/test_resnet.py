import pytest
from backbone_tester import BackboneTester
from mmpretrain.models import ResNet, ResNet_CIFAR

from mmpse.models import (
    ResNetCIFAR,
    SlimmableResNet,
    SlimmableResNet_CIFAR,
    SlimmableResNetCIFAR,
)

pytestmark = pytest.mark.usefixtures('device')

NARROW = dict(stem_channels=16, base_channels=16)  # for speed; the depth is what differs


class TestResNet(BackboneTester):
    backbone, stock = SlimmableResNet, ResNet
    sizes = {
        '18': dict(depth=18, out_indices=(0, 1, 2, 3), **NARROW),
        '34': dict(depth=34, **NARROW),
        '50': dict(depth=50, out_indices=(1, 3), **NARROW),
        '101': dict(depth=101, **NARROW),
        '152': dict(depth=152, **NARROW),
        '18-1.5x': dict(depth=18, stem_channels=96, base_channels=96),
        '50-caffe-dilated': dict(
            depth=50, style='caffe', strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), **NARROW
        ),
        'V1c-50': dict(depth=50, deep_stem=True, **NARROW),
        'V1d-50': dict(depth=50, deep_stem=True, avg_down=True, **NARROW),
    }
    slow = ('34', '101', '152', '18-1.5x', 'V1c-50')
    frozen = dict(frozen_stages=1, grids={'layer1*': dict(ratios=[1.0])})


class TestResNetCIFAR(BackboneTester):
    backbone, stock = SlimmableResNetCIFAR, ResNetCIFAR
    sizes = {
        '20': dict(depth=20, out_indices=(0, 2)),
        '56': dict(depth=56),
        '110': dict(depth=110),
        '20-1.5x': dict(depth=20, stem_channels=24, base_channels=24),
    }
    slow = ('110', '20-1.5x')
    frozen = dict(frozen_stages=1, grids={'layer2*': dict(ratios=[1.0])})
    image = 16


class TestResNetOfMmpretrainForCIFAR(BackboneTester):
    backbone, stock = SlimmableResNet_CIFAR, ResNet_CIFAR
    sizes = {'18': dict(depth=18, **NARROW), '50': dict(depth=50, **NARROW)}
    slow = ('50',)
    subnets = 10
    frozen = dict(frozen_stages=1, grids={'layer2*': dict(ratios=[1.0])})
    image = 16
