# PSPNet on the ResNet-50 searched at 1 G FLOPs.
_base_ = [
    '../_base_/segmentors/pspnet_resnet50-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/backbones/resnet50-1g.py',
]
model = dict(backbone={{_base_.retrained}})
