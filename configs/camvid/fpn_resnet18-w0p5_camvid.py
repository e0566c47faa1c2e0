# mmseg's Semantic FPN with a ResNet-18 of half the width on CamVid: 860 M FLOPs, trained from
# scratch. docs/results.md prunes it as a whole.
_base_ = [
    'mmseg::_base_/models/fpn_r50.py',
    '../_base_/schedules/adamw_cosine.py',
    '../_base_/datasets/camvid.py',
]
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    # RGB, CIFAR-10's statistics
    data_preprocessor=dict(
        mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255], size=(192, 256)
    ),
    pretrained=None,
    backbone=dict(type='ResNet', depth=18, stem_channels=32, base_channels=32, norm_cfg=norm_cfg),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    decode_head=dict(
        in_channels=[64] * 4, channels=64, num_classes=11, dropout_ratio=0.0, norm_cfg=norm_cfg
    ),
)
train_cfg = dict(max_epochs=14, val_interval=14)
