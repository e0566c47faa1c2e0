# mmseg's PSPNet, 40k iterations on VOC, on a MobileNetV2 1.5x, dilated as
# in mmseg's configs of the other datasets (output stride 8).
_base_ = 'mmseg::pspnet/pspnet_r50-d8_4xb4-40k_voc12aug-512x512.py'
model = dict(
    type='mmpse.FitToBackbone',
    architecture='EncoderDecoder',
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='mmpse.Slimmable',
        architecture='mmseg.MobileNetV2',
        widen_factor=1.5,
        strides=(1, 2, 2, 1, 1, 1, 1),
        dilations=(1, 1, 1, 2, 2, 4, 4),
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type='SyncBN', requires_grad=True),
    ),
)
