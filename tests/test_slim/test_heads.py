"""Heads that normalise their weights: a subnet scores the same in every execution."""

import pytest
import torch
from test_models import R18, ModelTester, fpn  # beside this file

from mmpse.openmmlab.models.outputs import raw_outputs
from mmpse.openmmlab.models.pruned import look
from mmpse.slim import GuardError, check, check_cut


class ClassifierTester(ModelTester):
    config = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
    head: dict
    neck: dict | None = dict(type='GlobalAveragePooling')

    @property
    def narrow(self):
        head = dict(_delete_=True, num_classes=5, in_channels=64, **self.head)
        return dict(backbone=R18, neck=self.neck, head=head)


class TestArcFace(ClassifierTester):
    head = dict(type='ArcFaceClsHead')


class TestArcFaceWithSubcenters(ClassifierTester):
    head = dict(type='ArcFaceClsHead', num_subcenters=3)


class TestCSRA(ClassifierTester):
    """It reads the weights of its layers by itself, so that masks do not reach them."""

    head = dict(type='CSRAClsHead', num_heads=2, lam=0.1)
    neck = None
    executions = ['sliced']


class TestNormedPredictors(ModelTester):
    config = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
    narrow = dict(
        backbone=R18,
        neck=fpn([8, 16, 32, 64]),
        rpn_head=dict(in_channels=16, feat_channels=16),
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=16),
            bbox_head=dict(
                in_channels=16,
                fc_out_channels=24,
                num_classes=3,
                cls_predictor_cfg=dict(type='NormedLinear', temperature=20),
                reg_predictor_cfg=dict(type='NormedLinear', temperature=20),
            ),
            mask_roi_extractor=dict(out_channels=16),
            mask_head=dict(
                in_channels=16,
                conv_out_channels=16,
                num_convs=2,
                num_classes=3,
                predictor_cfg=dict(type='NormedConv2d', temperature=20),
            ),
        ),
    )


def test_the_guard_names_the_head_that_cannot_be_masked():
    torch.manual_seed(0)
    model = TestCSRA().build().eval()
    layout, images = look(model)
    space = layout.space(divisor=2)
    check(model, layout, space, images, raw_outputs, ['sliced'])
    check_cut(model, layout, space.tinynet, images, raw_outputs)
    with pytest.raises(GuardError, match=r"behind head\.csra_heads\.1\.head; .*'sliced'.*grids="):
        check(model, layout, space, images, raw_outputs, ['masked'])
