# As the search of the MobileNetV2 supernet, with a quarter-width ResNet-18.
_base_ = 'search_mobilenet-v2_digits.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpse.SlimmableResNet',
        depth=18,
        stem_channels=16,
        base_channels=16,
    )
)
load_from = 'work_dirs/supernet_resnet18_digits/epoch_40.pth'
