# RetinaNet on the ResNet-50 pruned uniformly to the FLOPs of that searched at 1 G.
_base_ = [
    '../_base_/detectors/retinanet_resnet50_fpn_1x_coco.py',
    '../_base_/backbones/resnet50-1g-uniform.py',
]
model = dict(backbone={{_base_.retrained}})
