# DeepLabV3+ on the full MobileNetV2 1.5x.
_base_ = [
    '../_base_/segmentors/deeplabv3plus_mobilenet-v2-d8_4xb4-40k_voc12aug-512x512.py',
    '../_base_/backbones/mobilenet-v2-w1p5-full.py',
]
model = dict(backbone={{_base_.retrained}})
