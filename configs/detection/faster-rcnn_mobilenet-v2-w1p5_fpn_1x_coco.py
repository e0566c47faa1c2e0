# mmdet's Faster R-CNN, 1x COCO, on the MobileNetV2 1.5x that configs/supernet trains, where mmdet
# has a ResNet-50. `mmpse transfer` gives it the widths and the weights of a retrained subnet.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.MobileNetV2',
        widen_factor=1.5,
        out_indices=(1, 2, 4, 7),
        frozen_stages=1,
        norm_eval=True,
    ),
    neck=dict(in_channels=[40, 48, 144, 1920]),
)
