# DeepLabV3+ on the MobileNetV2 1.5x pruned uniformly to the FLOPs of the searched one.
_base_ = [
    '../_base_/segmentors/deeplabv3plus_mobilenet-v2-d8_4xb4-160k_ade20k-512x512.py',
    '../_base_/backbones/mobilenet-v2-w1p5-300m-uniform.py',
]
model = dict(backbone={{_base_.retrained}})
