# mmdet's RetinaNet, 1x COCO, on its ResNet-50 with other widths.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
model = dict(
    type='mmpse.FitToBackbone',
    architecture='RetinaNet',
    backbone=dict(type='mmpse.Slimmable', architecture='mmdet.ResNet'),
)
