# As the MobileNetV2 supernet, with the ResNet-20 of CIFAR.
_base_ = 'supernet_mobilenet-v2_digits.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpse.SlimmableResNetCIFAR',
        depth=20,
    )
)
