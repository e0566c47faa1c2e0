# mmseg's DeepLabV3+, 40k iterations on VOC, on a plain ResNet-50 (output stride 8):
# mmseg's own V1c has a deep stem, which the one searched on ImageNet lacks.
_base_ = 'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-40k_voc12aug-512x512.py'
model = dict(
    type='mmpse.FitToBackbone',
    architecture='EncoderDecoder',
    pretrained=None,
    backbone=dict(type='mmpse.Slimmable', architecture='mmseg.ResNet'),
)
