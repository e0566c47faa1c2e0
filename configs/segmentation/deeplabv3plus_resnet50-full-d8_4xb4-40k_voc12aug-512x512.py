# DeepLabV3+ on the full ResNet-50.
_base_ = [
    '../_base_/segmentors/deeplabv3plus_resnet50-d8_4xb4-40k_voc12aug-512x512.py',
    '../_base_/backbones/resnet50-full.py',
]
model = dict(backbone={{_base_.retrained}})
