# RetinaNet on the full ResNet-50.
_base_ = [
    '../_base_/detectors/retinanet_resnet50_fpn_1x_coco.py',
    '../_base_/backbones/resnet50-full.py',
]
model = dict(backbone={{_base_.retrained}})
