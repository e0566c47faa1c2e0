# DeepLabV3+ on the MobileNetV2 1.5x pruned uniformly to the FLOPs of the searched one.
_base_ = [
    '../_base_/segmentors/deeplabv3plus_mobilenet-v2-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/backbones/mobilenet-v2-w1p5-300m-uniform.py',
]
model = dict(backbone={{_base_.retrained}})
