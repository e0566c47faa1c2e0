# As the search of the MobileNetV2 supernet, with VGG-11 with BatchNorm.
_base_ = 'search_mobilenet-v2_digits.py'
model = dict(
    backbone=dict(_delete_=True, type='VGG', depth=11, norm_cfg=dict(type='BN')),
    head=dict(in_channels=512),
)
load_from = 'work_dirs/supernet_vgg11bn_digits/epoch_40.pth'
