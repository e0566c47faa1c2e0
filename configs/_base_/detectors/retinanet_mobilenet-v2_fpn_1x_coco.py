# mmdet's RetinaNet, 1x COCO, on a MobileNetV2 1.5x instead of its ResNet-50.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
model = dict(
    type='mmpse.FitToBackbone',
    architecture='RetinaNet',
    backbone=dict(
        _delete_=True,
        type='mmpse.SlimmableMobileNetV2',
        widen_factor=1.5,
        out_indices=(1, 2, 4, 7),
        frozen_stages=1,
        norm_eval=True,
    ),
)
