# As the MobileNetV2 supernet, with a quarter-width ResNet-18.
_base_ = 'supernet_mobilenet-v2_digits.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpse.SlimmableResNet',
        depth=18,
        stem_channels=16,
        base_channels=16,
    )
)
