# mmseg's DeepLabV3+, 80k iterations on Cityscapes, with the searched MobileNetV2 as its backbone.
# The heads' widths follow from the subnet file.
_base_ = 'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-80k_cityscapes-512x1024.py'
custom_imports = dict(imports=['mmpse'], allow_failed_imports=False)
model = dict(
    type='mmpse.FitToBackbone',
    architecture='EncoderDecoder',
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='mmpse.SlimmableMobileNetV2',
        widen_factor=1.5,
        subnet='work_dirs/psenet_mobilenet-v2-w1p5_300m_in1k/best_subnet.json',
        out_indices=(1, 2, 4, 7),
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/mobilenet-v2-w1p5-300m_8xb256_in1k/epoch_300.pth',
            prefix='backbone.',
        ),
    ),
)
