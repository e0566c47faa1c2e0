# mmseg's DeepLabV3+ with a ResNet-18 of half the width on CamVid: 2.5 G FLOPs, trained from scratch
# as the Semantic FPN beside it. docs/results.md prunes it as a whole.
_base_ = [
    'mmseg::_base_/models/deeplabv3plus_r50-d8.py',
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
    decode_head=dict(
        in_channels=256,
        channels=64,
        c1_in_channels=32,
        c1_channels=12,
        num_classes=11,
        dropout_ratio=0.0,
        norm_cfg=norm_cfg,
    ),
    auxiliary_head=dict(in_channels=128, channels=32, num_classes=11, norm_cfg=norm_cfg),
)
train_cfg = dict(max_epochs=14, val_interval=14)
