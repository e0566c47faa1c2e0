# Fine-tune the segmentor with the searched backbone on the whole training set, mmseg's 80k, from
# the supernet's weights, which are cut to the subnet on load.
_base_ = 'mmseg::pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py'
custom_imports = dict(imports=['mmpse'], allow_failed_imports=False)
model = dict(
    type='mmpse.FitToBackbone',
    architecture='EncoderDecoder',
    pretrained=None,
    backbone=dict(
        type='mmpse.Slimmable',
        architecture='mmseg.ResNetV1c',
        subnet='work_dirs/search_pspnet_r50-d8_cityscapes-512x1024/best_subnet.json',
    ),
)
load_from = 'work_dirs/supernet_pspnet_r50-d8_4xb8-40k_cityscapes-512x1024/iter_40000.pth'
