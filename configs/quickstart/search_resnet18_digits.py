# As the search of the MobileNetV2 supernet, with a quarter-width ResNet-18.
_base_ = 'search_mobilenet-v2_digits.py'
model = dict(
    backbone=dict(_delete_=True, type='ResNet', depth=18, stem_channels=16, base_channels=16),
    head=dict(in_channels=128),
)
load_from = 'work_dirs/supernet_resnet18_digits/epoch_40.pth'
