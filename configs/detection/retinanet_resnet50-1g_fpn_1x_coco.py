# RetinaNet on the ResNet-50 searched at 1 G FLOPs.
_base_ = [
    '../_base_/detectors/retinanet_resnet50_fpn_1x_coco.py',
    '../_base_/backbones/resnet50-1g.py',
]
model = dict(backbone={{_base_.retrained}})
