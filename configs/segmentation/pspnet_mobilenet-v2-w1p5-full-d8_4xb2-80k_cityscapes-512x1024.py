# PSPNet on the full MobileNetV2 1.5x.
_base_ = [
    '../_base_/segmentors/pspnet_mobilenet-v2-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/backbones/mobilenet-v2-w1p5-full.py',
]
model = dict(backbone={{_base_.retrained}})
