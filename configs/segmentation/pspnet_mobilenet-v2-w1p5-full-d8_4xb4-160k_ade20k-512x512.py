# PSPNet on the full MobileNetV2 1.5x.
_base_ = [
    '../_base_/segmentors/pspnet_mobilenet-v2-d8_4xb4-160k_ade20k-512x512.py',
    '../_base_/backbones/mobilenet-v2-w1p5-full.py',
]
model = dict(backbone={{_base_.retrained}})
