# DeepLabV3+ on the ResNet-50 pruned uniformly to the FLOPs of that searched at 1 G.
_base_ = [
    '../_base_/segmentors/deeplabv3plus_resnet50-d8_4xb4-160k_ade20k-512x512.py',
    '../_base_/backbones/resnet50-1g-uniform.py',
]
model = dict(backbone={{_base_.retrained}})
