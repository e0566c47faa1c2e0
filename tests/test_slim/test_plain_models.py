"""Models of torchvision and timm, which know nothing of OpenMMLab; see ``SlimTester``."""

import pytest
import timm
import torchvision

from mmpse.testing import SlimTester


class PlainTester(SlimTester):
    image = (3, 64, 64)
    divisor = 8


class TestTorchvisionResNet(PlainTester):
    def build(self):
        return torchvision.models.ResNet(
            torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3, width_per_group=64
        )


class TestTorchvisionMobileNetV3(PlainTester):
    image = (3, 32, 32)

    def build(self):
        return torchvision.models.mobilenet_v3_small(num_classes=3, width_mult=0.5)


@pytest.mark.slow
class TestTorchvisionConvNeXt(PlainTester):
    image = (3, 32, 32)

    def build(self):
        block = torchvision.models.convnext.CNBlockConfig
        return torchvision.models.ConvNeXt(
            [block(16, 32, 1), block(32, 64, 2), block(64, None, 1)], num_classes=3
        )


@pytest.mark.slow
class TestTorchvisionDenseNet(PlainTester):
    image = (3, 32, 32)

    def build(self):
        return torchvision.models.DenseNet(8, (2, 2, 2), 16, num_classes=3)


@pytest.mark.slow
class TestTimmResNet(PlainTester):
    def build(self):
        return timm.create_model('resnet10t', num_classes=3)


@pytest.mark.slow
class TestTimmEfficientNet(PlainTester):
    """Convolutions that pad by their input's size."""

    def build(self):
        return timm.create_model('tf_efficientnetv2_b0', num_classes=3)


@pytest.mark.slow
class TestTimmRegNet(PlainTester):
    def build(self):
        return timm.create_model('regnety_002', num_classes=3)
