# mmdet's Faster R-CNN, 1x COCO, on its ResNet-50 with other widths.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
model = dict(
    type='mmpse.FitToBackbone',
    architecture='FasterRCNN',
    backbone=dict(type='mmpse.Slimmable', architecture='mmdet.ResNet'),
)
