# As the search of the MobileNetV2 supernet, with the ResNet-20 of CIFAR.
_base_ = 'search_mobilenet-v2_digits.py'
model = dict(
    backbone=dict(_delete_=True, type='mmpse.ResNetCIFAR', depth=20),
    head=dict(in_channels=64),
)
load_from = 'work_dirs/supernet_resnet20_digits/epoch_40.pth'
