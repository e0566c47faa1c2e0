"""Raw outputs: everything that a model predicts from, of heads of every kind."""

import torch

from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.models.outputs import raw_outputs
from mmpse.openmmlab.models.pruned import look
from mmpse.slim import check_cut
from mmpse.slim.watch import tensors_in

R18 = dict(depth=18, base_channels=8, stem_channels=8)
NECK = dict(in_channels=[8, 16, 32, 64], out_channels=16)
EXTRACTOR = dict(out_channels=16)


def narrow(config, **model):
    torch.manual_seed(0)
    cfg = load_config(config)
    cfg.merge_from_dict(dict(model=model))
    return build_model(cfg).eval()


def cut_in_half(model):
    layout, images = look(model)
    check_cut(model, layout, layout.space(divisor=2).uniform(0.5), images, raw_outputs)
    return layout, images


def test_a_panoptic_detector_predicts_from_its_semantic_head():
    model = narrow(
        'mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py',
        backbone=R18,
        neck=NECK,
        rpn_head=dict(in_channels=16, feat_channels=16),
        roi_head=dict(
            bbox_roi_extractor=EXTRACTOR,
            bbox_head=dict(in_channels=16, fc_out_channels=24),
            mask_roi_extractor=EXTRACTOR,
            mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1),
        ),
        semantic_head=dict(in_channels=16, inner_channels=16, norm_cfg=dict(num_groups=4)),
    )
    layout, images = cut_in_half(model)
    assert not layout.unseen
    assert any(name.startswith('semantic_head.') for name in layout.units)
    assert layout.fixed['semantic_head.conv_logits'] == 'it is an output of the model'
    maps = raw_outputs(model, images)[-1]
    assert maps['seg_preds'].shape[1] == model.semantic_head.num_classes


def test_regions_with_features_of_their_own():
    heads = [
        dict(
            type='DIIHead',
            num_classes=3,
            num_ffn_fcs=2,
            num_heads=2,
            num_cls_fcs=1,
            num_reg_fcs=1,
            feedforward_channels=32,
            in_channels=16,
            dynamic_conv_cfg=dict(
                type='DynamicConv',
                in_channels=16,
                feat_channels=8,
                out_channels=16,
                input_feat_shape=7,
                norm_cfg=dict(type='LN'),
            ),
            loss_bbox=dict(type='L1Loss'),
            loss_iou=dict(type='GIoULoss'),
            loss_cls=dict(type='FocalLoss', use_sigmoid=True),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', clip_border=False),
        )
    ] * 2
    model = narrow(
        'mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',
        backbone=R18,
        neck=NECK,
        rpn_head=dict(num_proposals=6, proposal_feature_channel=16),
        roi_head=dict(
            num_stages=2,
            stage_loss_weights=[1, 1],
            proposal_feature_channel=16,
            bbox_roi_extractor=EXTRACTOR,
            bbox_head=heads,
        ),
    )
    layout, images = cut_in_half(model)
    scores = raw_outputs(model, images.repeat(2, 1, 1, 1))
    assert [tuple(score.shape) for score in scores] == [(2, 6, 3)] * 2
    assert 'roi_head.bbox_head.0.ffn.layers.0.0' in layout.units


def test_points_of_a_map_are_refined():
    model = narrow(
        'mmseg::point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py',
        backbone=R18,
        neck=NECK,
        decode_head=[
            dict(
                type='FPNHead',
                in_channels=[16] * 4,
                in_index=[0, 1, 2, 3],
                feature_strides=[4, 8, 16, 32],
                channels=16,
                num_classes=3,
                norm_cfg=dict(type='BN'),
            ),
            dict(type='PointHead', in_channels=[16], in_index=[0], channels=16, num_classes=3),
        ],
        test_cfg=dict(subdivision_steps=1, subdivision_num_points=64),
    )
    layout, images = cut_in_half(model)
    outputs = list(tensors_in(raw_outputs(model, images)))
    assert [tuple(y.shape[2:]) for y in outputs] == [(16, 16), (64, 64)]
    assert not layout.unseen and 'neck.fpn_convs.3.conv' in layout.units
