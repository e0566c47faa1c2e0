# Faster R-CNN on the ResNet-50 searched at 2 G FLOPs.
_base_ = [
    '../_base_/detectors/faster-rcnn_resnet50_fpn_1x_coco.py',
    '../_base_/backbones/resnet50-2g.py',
]
model = dict(backbone={{_base_.retrained}})
