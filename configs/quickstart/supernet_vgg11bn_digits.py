# As the MobileNetV2 supernet, with VGG-11 with BatchNorm.
_base_ = 'supernet_mobilenet-v2_digits.py'
model = dict(
    backbone=dict(_delete_=True, type='VGG', depth=11, norm_cfg=dict(type='BN')),
    head=dict(in_channels=512),
)
