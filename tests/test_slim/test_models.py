"""Small versions of real models; see ``mmpse.testing.SlimTester``."""

import pytest
import torch

from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config
from mmpse.testing import SlimTester


class ModelTester(SlimTester):
    """A model of a stock config, made narrow.

    Attributes:
        config: Name of the config.
        narrow: What is merged into its model.
    """

    config: str
    narrow: dict = {}
    divisor = 2
    costed = 20

    def build(self):
        config = load_config(self.config)
        config.merge_from_dict(dict(model=self.narrow))
        return build_model(config)


R18 = dict(depth=18, base_channels=8, stem_channels=8)
R50 = dict(depth=50, base_channels=4, stem_channels=8)
R50_WIDTHS = [16, 32, 64, 128]


def fpn(inputs, width=16):
    return dict(in_channels=inputs, out_channels=width)


# Detectors


class TestRetinaNet(ModelTester):
    config = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
    narrow = dict(
        backbone=R18,
        neck=fpn([8, 16, 32, 64]),
        bbox_head=dict(num_classes=3, in_channels=16, feat_channels=12, stacked_convs=2),
    )


class TestRTMDet(ModelTester):
    config = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
    narrow = dict(
        backbone=dict(widen_factor=0.0625),
        neck=fpn([16, 32, 64]),
        bbox_head=dict(num_classes=3, in_channels=16, feat_channels=16),
    )


@pytest.mark.slow
class TestYOLOX(ModelTester):
    config = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'
    narrow = dict(
        backbone=dict(widen_factor=0.0625),
        neck=fpn([16, 32, 64]),
        bbox_head=dict(num_classes=3, in_channels=16, feat_channels=16),
    )


class TestFasterRCNN(ModelTester):
    config = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
    narrow = dict(
        backbone=R18,
        neck=fpn([8, 16, 32, 64]),
        rpn_head=dict(in_channels=16, feat_channels=16),
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=16),
            bbox_head=dict(in_channels=16, fc_out_channels=24, num_classes=3),
        ),
    )


class TestMaskRCNNWithGroupNorm(ModelTester):
    config = 'mmdet::gn/mask-rcnn_r50_fpn_gn-all_2x_coco.py'
    GN = dict(type='GN', num_groups=4)
    narrow = dict(
        backbone=dict(R18, norm_cfg=GN),
        neck=dict(fpn([8, 16, 32, 64]), norm_cfg=GN),
        rpn_head=dict(in_channels=16, feat_channels=16),
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=16),
            bbox_head=dict(
                in_channels=16,
                conv_out_channels=16,
                fc_out_channels=24,
                num_classes=3,
                norm_cfg=GN,
            ),
            mask_roi_extractor=dict(out_channels=16),
            mask_head=dict(
                in_channels=16, conv_out_channels=16, num_convs=2, num_classes=3, norm_cfg=GN
            ),
        ),
    )


class TestFCOS(ModelTester):
    config = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'
    narrow = dict(
        backbone=R18,
        neck=fpn([8, 16, 32, 64], 32),
        bbox_head=dict(num_classes=3, in_channels=32, feat_channels=64, stacked_convs=2),
    )


@pytest.mark.slow
class TestATSS(ModelTester):
    config = 'mmdet::atss/atss_r50_fpn_1x_coco.py'
    narrow = dict(
        backbone=R18,
        neck=fpn([8, 16, 32, 64], 32),
        bbox_head=dict(num_classes=3, in_channels=32, feat_channels=64, stacked_convs=2),
    )


@pytest.mark.slow
class TestSSDLite(ModelTester):
    config = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'
    narrow = dict(backbone=dict(widen_factor=0.25), bbox_head=dict(num_classes=3))
    narrow['neck'] = dict(in_channels=(24, 1280), out_channels=(24, 1280, 32, 16, 16, 8))
    narrow['bbox_head']['in_channels'] = (24, 1280, 32, 16, 16, 8)


@pytest.mark.slow
class TestCascade(ModelTester):
    config = 'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py'
    HEAD = dict(
        type='Shared2FCBBoxHead',
        in_channels=16,
        fc_out_channels=24,
        roi_feat_size=7,
        num_classes=3,
        reg_class_agnostic=True,
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
    )
    narrow = dict(
        backbone=R18,
        neck=fpn([8, 16, 32, 64]),
        rpn_head=dict(in_channels=16, feat_channels=16),
        roi_head=dict(bbox_roi_extractor=dict(out_channels=16), bbox_head=[HEAD] * 3),
    )
    counted = False  # mmengine cannot run it on an image alone

    def run(self, model, images):
        rpn, (scores, boxes) = super().run(model, images)
        return rpn, torch.cat(scores), torch.cat(boxes)  # one by one for images


class TestDeformable(ModelTester):
    """Deformable convolutions, and offsets that are read from what they read."""

    config = 'mmdet::dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py'
    narrow = dict(
        backbone=R50, neck=fpn(R50_WIDTHS), rpn_head=dict(in_channels=16, feat_channels=16)
    )
    narrow['roi_head'] = TestFasterRCNN.narrow['roi_head']
    counted = False  # mmengine leaves deformable convolutions out


class TestDeformableInGroups(TestDeformable):
    """Each group of an input's channels has its own offsets: the layer before it stays."""

    config = 'mmdet::dcnv2/faster-rcnn_r50-mdconv-group4-c3-c5_fpn_1x_coco.py'
    fixed = {'backbone.layer2.0.conv1': 'offsets'}


class TestVarifocal(ModelTester):
    """Deformable convolutions whose offsets come from elsewhere."""

    config = 'mmdet::vfnet/vfnet_r50_fpn_1x_coco.py'
    narrow = dict(
        backbone=R18,
        neck=fpn([8, 16, 32, 64], 32),
        bbox_head=dict(num_classes=3, in_channels=32, feat_channels=64, stacked_convs=1),
    )
    counted = False


class TestDETR(ModelTester):
    """Of its transformer only the MLPs: attention mixes channels, sums join it to LayerNorms."""

    config = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'
    LAYER = dict(
        self_attn_cfg=dict(embed_dims=16, num_heads=2),
        ffn_cfg=dict(embed_dims=16, feedforward_channels=24),
    )
    narrow = dict(
        num_queries=5,
        backbone=R18,
        neck=dict(in_channels=[64], out_channels=16),
        encoder=dict(num_layers=1, layer_cfg=LAYER),
        decoder=dict(
            num_layers=2,
            layer_cfg=dict(LAYER, cross_attn_cfg=dict(embed_dims=16, num_heads=2)),
        ),
        positional_encoding=dict(num_feats=8),
        bbox_head=dict(num_classes=3, embed_dims=16),
    )
    executions = ['sliced']  # its head gets tensors whose first dimension is no batch
    counted = False  # products of attention


# Segmentors


class TestSemanticFPN(ModelTester):
    config = 'mmseg::sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py'
    narrow = dict(
        backbone=R18,
        neck=fpn([8, 16, 32, 64]),
        decode_head=dict(in_channels=[16] * 4, channels=12, num_classes=3),
    )


@pytest.mark.slow
class TestPSPNet(ModelTester):
    config = 'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
    narrow = dict(
        backbone=R18,
        decode_head=dict(in_channels=64, channels=16, num_classes=3),
        auxiliary_head=dict(in_channels=32, channels=8, num_classes=3),
    )


class TestDeepLabV3Plus(ModelTester):
    config = 'mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py'
    narrow = dict(
        backbone=R18,
        decode_head=dict(
            in_channels=64, channels=16, c1_in_channels=8, c1_channels=6, num_classes=3
        ),
        auxiliary_head=dict(in_channels=32, channels=8, num_classes=3),
    )


class TestFCNHRNet(ModelTester):
    """Branches of several sizes that are summed with each other."""

    config = 'mmseg::hrnet/fcn_hr18_4xb2-40k_cityscapes-512x1024.py'
    WIDTHS = (4, 6, 8, 10)
    narrow = dict(
        backbone=dict(
            extra=dict(
                stage1=dict(num_blocks=(1,), num_channels=(8,)),
                stage2=dict(num_blocks=(1,) * 2, num_channels=WIDTHS[:2]),
                stage3=dict(num_modules=1, num_blocks=(1,) * 3, num_channels=WIDTHS[:3]),
                stage4=dict(num_modules=1, num_blocks=(1,) * 4, num_channels=WIDTHS),
            )
        ),
        decode_head=dict(in_channels=list(WIDTHS), channels=28, num_classes=3),
    )


# Classifiers


class TestMobileNetV2(ModelTester):
    config = 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'
    narrow = dict(backbone=dict(widen_factor=0.25), head=dict(num_classes=3, topk=(1,)))


@pytest.mark.slow
class TestMobileNetV3(ModelTester):
    config = 'mmpretrain::mobilenet_v3/mobilenet-v3-small-075_8xb128_in1k.py'
    narrow = dict(head=dict(num_classes=3, mid_channels=[32], topk=(1,)))
    divisor = 8


@pytest.mark.slow
class TestEfficientNet(ModelTester):
    config = 'mmpretrain::efficientnet/efficientnet-b0_8xb32_in1k.py'
    narrow = dict(head=dict(num_classes=3, topk=(1,)))
    divisor = 8


@pytest.mark.slow
class TestSEResNet(ModelTester):
    config = 'mmpretrain::seresnet/seresnet50_8xb32_in1k.py'
    narrow = dict(
        backbone=dict(base_channels=16, stem_channels=16, expansion=2, se_ratio=4),
        head=dict(num_classes=3, in_channels=256, topk=(1,)),
    )


@pytest.mark.slow
class TestResNeXt(ModelTester):
    config = 'mmpretrain::resnext/resnext50-32x4d_8xb32_in1k.py'
    narrow = dict(
        backbone=dict(base_channels=16, stem_channels=16, groups=4, width_per_group=4, expansion=2),
        head=dict(num_classes=3, in_channels=256, topk=(1,)),
    )


@pytest.mark.slow
class TestRegNet(ModelTester):
    config = 'mmpretrain::regnet/regnetx-400mf_8xb128_in1k.py'
    narrow = dict(head=dict(num_classes=3, topk=(1,)))
    divisor = 8


class TestShuffleNetV2(ModelTester):
    config = 'mmpretrain::shufflenet_v2/shufflenet-v2-1x_16xb64_in1k.py'
    narrow = dict(backbone=dict(widen_factor=0.5), head=dict(num_classes=3, topk=(1,)))


class TestConvNeXt(ModelTester):
    config = 'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py'
    narrow = dict(
        backbone=dict(
            _delete_=True,
            type='ConvNeXt',
            arch=dict(depths=[1, 1, 2, 1], channels=[8, 16, 24, 32]),
            drop_path_rate=0.1,
        ),
        head=dict(num_classes=3, in_channels=32, topk=(1,)),
    )


class TestSwin(ModelTester):
    """Only MLPs: attention mixes channels, and sums join it to LayerNorms."""

    config = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'
    narrow = dict(
        backbone=dict(
            _delete_=True,
            type='SwinTransformer',
            arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[2, 2, 2, 2]),
            img_size=64,
        ),
        head=dict(num_classes=3, in_channels=64, topk=(1,)),
    )
    counted = False  # products of attention
