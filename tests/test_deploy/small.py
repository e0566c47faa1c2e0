"""Models of every kind, narrow, with random weights that make their predictions differ."""

import copy
import logging

import mmpretrain.models  # noqa: F401  fills the registries
import numpy as np
import torch
from mmdet.apis import inference_detector
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.registry import METRICS, DefaultScope
from mmseg.apis import inference_model
from PIL import Image
from torch import nn

from mmpse.registry import MODELS

RGB = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
BGR = dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], bgr_to_rgb=False)
BN = dict(type='BN')
SILU = dict(type='SiLU')
TEST = dict(
    nms_pre=1000,
    min_bbox_size=0,
    score_thr=0.05,
    nms=dict(type='nms', iou_threshold=0.5),
    max_per_img=100,
)


def resnet(*out_indices):
    return dict(type='ResNet', depth=18, base_channels=8, out_indices=out_indices, norm_cfg=BN)


def detector(kind, head, backbone=None, neck=None, **model):
    """A detector with ResNet-18 and FPN, unless told otherwise."""
    levels = len(STRIDES)
    return dict(
        type=kind,
        data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32, **RGB),
        backbone=backbone or resnet(1, 2, 3),
        neck=neck or dict(type='FPN', in_channels=[16, 32, 64], out_channels=16, num_outs=levels),
        bbox_head=dict(
            dict(num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1), **head
        ),
        test_cfg=model.pop('test_cfg', TEST),
        **model,
    )


STRIDES = [8, 16, 32, 64]
ANCHORS = dict(
    type='AnchorGenerator',
    octave_base_scale=4,
    scales_per_octave=3,
    ratios=[0.5, 1.0, 2.0],
    strides=STRIDES,
)
ONE_ANCHOR = dict(ANCHORS, octave_base_scale=8, scales_per_octave=1, ratios=[1.0])
DELTAS = dict(type='DeltaXYWHBBoxCoder', target_stds=[0.5, 0.5, 0.5, 0.5])


def retinanet(**model):
    head = dict(type='RetinaHead', anchor_generator=ANCHORS, bbox_coder=DELTAS)
    return detector('RetinaNet', head, **model)


def atss(**model):
    head = dict(type='ATSSHead', anchor_generator=ONE_ANCHOR, bbox_coder=DELTAS, norm_cfg=BN)
    return detector('ATSS', head)


def gfl(**model):
    return detector('GFL', dict(type='GFLHead', anchor_generator=ONE_ANCHOR, norm_cfg=BN))


def fcos(**model):
    return detector('FCOS', dict(type='FCOSHead', strides=STRIDES, norm_cfg=None))


def ssd(**model):
    head = dict(
        type='SSDHead',
        in_channels=(16, 32, 64),
        anchor_generator=dict(
            type='SSDAnchorGenerator',
            scale_major=False,
            input_size=128,
            min_sizes=[16, 32, 64],
            max_sizes=[32, 64, 100],
            strides=[8, 16, 32],
            ratios=[[2], [2], [2]],
        ),
        bbox_coder=DELTAS,
    )
    cfg = detector('SingleStageDetector', head, neck=None)
    cfg['bbox_head'].update(feat_channels=16, stacked_convs=0)
    return dict(cfg, neck=None)


def rtmdet(**model):
    neck = dict(
        type='CSPNeXtPAFPN',
        in_channels=[32, 64, 128],
        out_channels=16,
        num_csp_blocks=1,
        norm_cfg=BN,
        act_cfg=SILU,
    )
    backbone = dict(
        type='CSPNeXt', deepen_factor=0.167, widen_factor=0.125, norm_cfg=BN, act_cfg=SILU
    )
    head = dict(
        type='RTMDetSepBNHead',
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        with_objectness=False,
        exp_on_reg=True,
        share_conv=True,
        norm_cfg=BN,
        act_cfg=SILU,
    )
    preprocessor = dict(type='DetDataPreprocessor', **BGR)  # its pipelines pad, to one size
    cfg = detector('RTMDet', head, backbone, neck)
    return dict(cfg, data_preprocessor=preprocessor)


def yolox(**model):
    neck = dict(type='YOLOXPAFPN', in_channels=[32, 64, 128], out_channels=16, num_csp_blocks=1)
    backbone = dict(type='CSPDarknet', deepen_factor=0.33, widen_factor=0.125)
    test = dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.65))
    return detector('YOLOX', dict(type='YOLOXHead'), backbone, neck, test_cfg=test)


def faster_rcnn(**model):
    cfg = retinanet()
    roi = dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=3),
            out_channels=16,
            featmap_strides=STRIDES,
        ),
        bbox_head=dict(type='Shared2FCBBoxHead', in_channels=16, fc_out_channels=8, num_classes=3)
        | dict(roi_feat_size=3, bbox_coder=DELTAS),
    )
    rpn = dict(type='RPNHead', in_channels=16, feat_channels=16, anchor_generator=ONE_ANCHOR)
    test = dict(rpn=dict(TEST, nms=dict(type='nms', iou_threshold=0.7)), rcnn=TEST)
    parts = {key: cfg[key] for key in ('data_preprocessor', 'backbone', 'neck')}
    return dict(parts, type='FasterRCNN', rpn_head=rpn, roi_head=roi, train_cfg=None, test_cfg=test)


def segmentor(head=None, mode='whole'):
    """Semantic FPN's neck with an FCN head; pictures are padded to multiples of 32."""
    return dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor', size=(64, 64), test_cfg=dict(size_divisor=32), **RGB
        ),
        backbone=dict(
            resnet(0, 1), num_stages=2, strides=(1, 2), dilations=(1, 1), style='pytorch'
        ),
        neck=dict(type='FPN', in_channels=[8, 16], out_channels=16, num_outs=2),
        decode_head=head
        or dict(
            type='FPNHead',
            in_channels=[16] * 2,
            in_index=[0, 1],
            feature_strides=[4, 8],
            channels=16,
            num_classes=5,
            norm_cfg=BN,
            align_corners=False,
        ),
        test_cfg=dict(mode=mode),
    )


def pspnet():
    head = dict(type='PSPHead', pool_scales=(1, 3), in_channels=16, in_index=0, channels=8)
    return segmentor(dict(head, num_classes=5, norm_cfg=BN))


def classifier():
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(
            type='ClsDataPreprocessor', mean=RGB['mean'], std=RGB['std'], to_rgb=True
        ),
        backbone=dict(type='MobileNetV2', widen_factor=0.1),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=7, in_channels=1280),
    )


SCOPES = {segmentor: 'mmseg', pspnet: 'mmseg', classifier: 'mmpretrain'}


def built(maker, **kwargs):
    """The model of one of the functions above, in eval mode."""
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(SCOPES.get(maker, 'mmdet')):
        model = MODELS.build(ConfigDict(copy.deepcopy(maker(**kwargs))))
    return lively(model).eval()


@torch.no_grad()
def lively(model):
    """Features of the size of one through all layers, scores and boxes of all kinds."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.2, 0.2)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
    if hasattr(model, 'bbox_head'):
        moderate(model)
    return model


def noise(batch, height, width):
    """Pictures of noise, normalised."""
    return (torch.randint(0, 256, (batch, 3, height, width)).float() - 118) / 57


def moderate(detector):
    """Scores that are neither all 0 nor all 1, boxes about as large as their anchors."""
    largest = {}

    def note(layer, inputs, output):
        largest[layer] = max(largest.get(layer, 0), float(output.std()))

    last = [
        layer
        for layer in detector.bbox_head.modules()
        if isinstance(layer, nn.Conv2d) and (layer.out_channels % 16 or layer.in_channels > 16)
    ]
    hooks = [layer.register_forward_hook(note) for layer in last]
    detector.eval()(noise(1, 128, 160))
    for hook in hooks:
        hook.remove()
    for layer, spread in largest.items():
        layer.weight.div_(spread)
        layer.bias.uniform_(-1.5, 0)


def picture(width, height):
    """Smooth and coloured, so that resizing and channels matter."""
    rng = np.random.default_rng(0)
    small_one = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    return small_one.resize((width, height), Image.BICUBIC)


def predicted(model, path):
    """What mmdet or mmseg predicts for a picture in a file, by its own function for that."""
    if hasattr(model, 'bbox_head'):
        function, pack = inference_detector, 'PackDetInputs'
    else:
        function, pack = inference_model, 'PackSegInputs'
    resize = dict(type='Resize', scale_factor=1.0, keep_ratio=True)
    pipeline = [dict(type='LoadImageFromFile'), resize, dict(type=pack)]
    loader = dict(dataset=dict(pipeline=pipeline))
    model.cfg = Config(dict(test_dataloader=loader, test_pipeline=pipeline))
    scope = 'mmdet' if function is inference_detector else 'mmseg'
    with DefaultScope.overwrite_default_scope(scope):
        return function(model, str(path))


@MODELS.register_module()
class Convs(nn.Sequential):
    """A backbone of three convolutions."""

    def __init__(self):
        layers = []
        for inputs, outputs in ((3, 8), (8, 16), (16, 16)):
            conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*layers)

    def forward(self, x):
        return (super().forward(x),)

    def init_weights(self):
        pass


def convs():
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(type='ClsDataPreprocessor', mean=[127.5], std=[64.0], to_rgb=True),
        backbone=dict(type='mmpse.Convs'),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=16),
    )


SCOPES[convs] = 'mmpretrain'


@METRICS.register_module()
class Sums(BaseMetric):
    """Metrics that every number of a prediction changes, of any model."""

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            if 'pred_instances' in sample:
                found = [sample['pred_instances'][key] for key in ('bboxes', 'scores', 'labels')]
            elif 'pred_sem_seg' in sample:
                found = [sample['pred_sem_seg']['data']]
            else:
                found = [sample['pred_score'] * torch.arange(10)]
            self.results.append([round(float(value.double().abs().sum()), 2) for value in found])

    def compute_metrics(self, results):
        return {str(k): round(sum(column), 1) for k, column in enumerate(zip(*results))}


def digits_config(model, root, task='classification'):
    """A config of the embedded data, a few pictures."""
    scope = dict(classification='mmpretrain', detection='mmdet', segmentation='mmseg')[task]
    pack = dict(
        classification='PackInputs', detection='PackDetInputs', segmentation='PackSegInputs'
    )
    pipeline = [dict(type='LoadImageFromFile'), dict(type=pack[task])]
    if task == 'classification':
        pipeline.insert(1, dict(type='Resize', scale=(16, 16)))
    elif task == 'detection':
        pipeline.insert(1, dict(type='Resize', scale=(128, 128)))

    def loader(split):
        dataset = dict(
            type='mmpse.DigitsDataset',
            task=task,
            split=split,
            data_root=str(root),
            pipeline=pipeline,
            indices=24,
            test_mode=True,
        )
        if task == 'classification':
            dataset.pop('test_mode')
        sampler = dict(type='DefaultSampler', shuffle=False)
        return dict(batch_size=4, num_workers=0, sampler=sampler, dataset=dataset)

    return dict(
        default_scope=scope,
        model=model,
        train_dataloader=loader('train'),
        val_dataloader=loader('test'),
        val_evaluator=dict(type='Sums'),
    )
