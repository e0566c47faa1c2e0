"""A fitted model computes what the full model computes with the missing channels at zero."""

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import nn

from mmpse.models import FitError, SlimmableResNet
from mmpse.models.slimmable import pad_channels
from mmpse.registry import MODELS

RESNET = dict(
    type='mmpse.Slimmable', architecture='mmseg.ResNet', depth=18, out_indices=(0, 1, 2, 3)
)
SUBNET = SlimmableResNet(depth=18).search_space.uniform(0.5).to_dict()
HEAD = dict(channels=16, num_classes=3, dropout_ratio=0)


def segmentor(decode_head, **kwargs):
    return dict(
        type='mmpse.FitToBackbone',
        architecture='mmseg.EncoderDecoder',
        test_cfg=dict(mode='whole'),
        decode_head=dict(HEAD, **decode_head),
        **kwargs,
    )


def detector(architecture, bbox_head, **kwargs):
    return dict(
        type='mmpse.FitToBackbone', architecture=architecture, bbox_head=bbox_head, **kwargs
    )


RETINA = dict(
    type='RetinaHead',
    num_classes=3,
    in_channels=16,
    feat_channels=16,
    stacked_convs=1,
    anchor_generator=dict(
        type='AnchorGenerator',
        octave_base_scale=4,
        scales_per_octave=3,
        ratios=[1.0],
        strides=[4, 8, 16, 32],
    ),
)
NONE = dict(input_transform=None, in_channels=512, in_index=3)
SEVERAL = dict(in_channels=[64, 128, 256, 512], in_index=[0, 1, 2, 3])
MODELS_UNDER_TEST = dict(
    fcn_joining_its_input=segmentor(dict(type='FCNHead', num_convs=1, **NONE)),
    fcn_on_joined_features=segmentor(
        dict(type='FCNHead', input_transform='resize_concat', concat_input=False, **SEVERAL)
    ),
    pspnet=segmentor(dict(type='PSPHead', pool_scales=(1, 2), **NONE)),
    deeplabv3plus=segmentor(
        dict(
            type='DepthwiseSeparableASPPHead',
            dilations=(1, 2),
            c1_in_channels=64,
            c1_channels=8,
            **NONE,
        )
    ),
    upernet=segmentor(
        dict(type='UPerHead', pool_scales=(1, 2), **SEVERAL),
    ),
    jpu=segmentor(
        dict(type='FCNHead', num_convs=1, in_channels=32, in_index=2),
        neck=dict(
            type='JPU',
            in_channels=(64, 128, 256, 512),
            mid_channels=16,
            start_level=1,
            dilations=(1, 2),
        ),
    ),
    retinanet=detector(
        'mmdet.RetinaNet',
        RETINA,
        neck=dict(type='mmdet.FPN', in_channels=[64, 128, 256, 512], out_channels=16, num_outs=4),
    ),
    numbers_of_another_backbone=detector(
        'mmdet.RetinaNet',
        RETINA,
        neck=dict(type='mmdet.FPN', in_channels=[1, 9, 2048, 7], out_channels=16, num_outs=4),
    ),
    ssd_norm=detector(
        'mmdet.SingleStageDetector',
        dict(
            type='SSDHead',
            num_classes=3,
            in_channels=(64, 128, 256, 512, 32),
            anchor_generator=dict(
                type='SSDAnchorGenerator',
                min_sizes=[8, 16, 24, 32, 40],
                max_sizes=[16, 24, 32, 40, 64],
                strides=[4, 8, 16, 32, 64],
                ratios=[[2], [2], [2], [2], [2]],
            ),
        ),
        neck=dict(
            type='SSDNeck',
            in_channels=(64, 128, 256, 512),
            out_channels=(64, 128, 256, 512, 32),
            level_strides=(2,),
            level_paddings=(1,),
        ),
    ),
)


def build(config, subnet=None):
    scope = 'mmseg' if 'decode_head' in config else 'mmdet'
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(dict(config, backbone=dict(RESNET, subnet=subnet))).eval()


def outputs(model, features):
    model.backbone.forward = lambda _: features
    found = model(torch.zeros(2, 3, 64, 64), mode='tensor')
    return [found] if torch.is_tensor(found) else [y for ys in found for y in ys]


@pytest.mark.parametrize('name', MODELS_UNDER_TEST)
def test_fitted_model_equals_the_full_one(name):
    full = build(MODELS_UNDER_TEST[name])
    small = build(MODELS_UNDER_TEST[name], SUBNET)
    for norm in full.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_var.uniform_(0.5, 2)
        if type(norm).__name__ == 'L2Norm':
            norm.weight.data.uniform_(1, 20)
    small.load_state_dict(full.state_dict())
    with torch.no_grad():
        features = tuple(
            torch.randn(2, width, size, size)
            for width, size in zip(small.backbone.out_channels, (16, 8, 4, 2))
        )
        padded = tuple(map(pad_channels, features, full.backbone.out_channels))
        for y, expected in zip(outputs(small, features), outputs(full, padded), strict=True):
            torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


def test_fitting_leaves_the_model_as_it_was_built():
    model = build(MODELS_UNDER_TEST['pspnet'], SUBNET)
    assert model.train().training and all(
        'forward' not in vars(module) for module in model.modules()
    )
    bottleneck = model.decode_head.bottleneck
    assert bottleneck.in_channels == bottleneck.conv.in_channels == 256 + 2 * 16


class Head(nn.Module):
    """Reads features in one of the ways that cannot be fitted."""

    align_corners = False

    def __init__(self, way):
        super().__init__()
        self.way, self.out_channels = way, 3
        self.num_classes = 3
        self.up = nn.ConvTranspose2d(512, 3, 2)
        self.norm = nn.Conv2d(1, 3, 1)
        self.shared = nn.Conv2d(512, 3, 1)
        self.matrix = nn.Parameter(torch.zeros(512, 3))

    def forward(self, x, *_):
        if self.way == 'transposed':
            return self.up(x[-1])
        if self.way == 'computed':
            return self.norm(x[-1].mean(1, keepdim=True))
        if self.way == 'functional':
            return x[-1].movedim(1, -1) @ self.matrix
        return self.shared(x[-1]) + self.shared(x[-1].new_zeros(1, 512, 1, 1))

    predict = forward


@pytest.mark.parametrize(
    ('way', 'message'),
    [
        ('transposed', r'decode_head.up \(ConvTranspose2d\) reads a feature'),
        ('computed', r'decode_head.norm \(Conv2d\) reads something computed from feature 3'),
        ('functional', 'EncoderDecoder reads feature 3 of the backbone by an operation'),
        ('shared', r'decode_head.shared \(Conv2d\) reads features of the backbone and other'),
    ],
)
def test_what_cannot_be_fitted_is_named(way, message):
    if MODELS.get('HeadUnderTest') is None:
        MODELS.register_module('HeadUnderTest', module=Head)
    config = segmentor(dict(type='FCNHead', **NONE))
    config['decode_head'] = dict(type='mmpse.HeadUnderTest', way=way)
    with pytest.raises(FitError, match=message):
        build(config, SUBNET)


def test_a_backbone_that_is_not_slimmable():
    config = segmentor(dict(type='FCNHead', **NONE))
    with (
        DefaultScope.overwrite_default_scope('mmseg'),
        pytest.raises(ValueError, match='needs a slimmable backbone, got ResNet'),
    ):
        MODELS.build(dict(config, backbone=dict(type='ResNet', depth=18)))
