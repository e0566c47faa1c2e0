# DeepLabV3+ on the MobileNetV2 1.5x searched at 300 M FLOPs.
_base_ = [
    '../_base_/segmentors/deeplabv3plus_mobilenet-v2-d8_4xb4-40k_voc12aug-512x512.py',
    '../_base_/backbones/mobilenet-v2-w1p5-300m.py',
]
model = dict(backbone={{_base_.retrained}})
