# mmseg's PSPNet, 80k iterations on Cityscapes, on a plain ResNet-50 (output stride 8):
# mmseg's own V1c has a deep stem, which the one searched on ImageNet lacks.
_base_ = 'mmseg::pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py'
model = dict(
    type='mmpse.FitToBackbone',
    architecture='EncoderDecoder',
    pretrained=None,
    backbone=dict(type='mmpse.Slimmable', architecture='mmseg.ResNet'),
)
