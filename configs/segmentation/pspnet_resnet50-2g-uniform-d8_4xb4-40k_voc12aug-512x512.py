# PSPNet on the ResNet-50 pruned uniformly to the FLOPs of that searched at 2 G.
_base_ = [
    '../_base_/segmentors/pspnet_resnet50-d8_4xb4-40k_voc12aug-512x512.py',
    '../_base_/backbones/resnet50-2g-uniform.py',
]
model = dict(backbone={{_base_.retrained}})
