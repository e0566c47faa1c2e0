# PSPNet on the full ResNet-50.
_base_ = [
    '../_base_/segmentors/pspnet_resnet50-d8_4xb4-160k_ade20k-512x512.py',
    '../_base_/backbones/resnet50-full.py',
]
model = dict(backbone={{_base_.retrained}})
