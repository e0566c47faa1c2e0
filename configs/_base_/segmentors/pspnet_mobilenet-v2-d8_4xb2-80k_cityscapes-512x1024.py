# mmseg's PSPNet, 80k iterations on Cityscapes, on a MobileNetV2 1.5x (output stride 8).
_base_ = 'mmseg::mobilenet_v2/mobilenet-v2-d8_pspnet_4xb2-80k_cityscapes-512x1024.py'
model = dict(
    type='mmpse.FitToBackbone',
    architecture='EncoderDecoder',
    pretrained=None,
    backbone=dict(type='mmpse.Slimmable', architecture='mmseg.MobileNetV2', widen_factor=1.5),
)
