# mmseg's PSPNet with its ResNet-50 V1c as a supernet, whose subnets are normalised by their own
# statistics: BN for the backbone, where mmseg has SyncBN.
_base_ = 'mmseg::_base_/models/pspnet_r50-d8.py'
custom_imports = dict(imports=['mmpse'], allow_failed_imports=False)
randomness = dict(seed=0)
model = dict(
    type='mmpse.FitToBackbone',
    architecture='EncoderDecoder',
    data_preprocessor=dict(size=(512, 1024)),
    pretrained=None,  # the segmentor's own checkpoint is loaded
    backbone=dict(
        type='mmpse.Slimmable',
        architecture='mmseg.ResNetV1c',
        norm_cfg=dict(type='BN'),
    ),
)
