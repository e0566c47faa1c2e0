# The same with MobileNetV2 0.5x. The stock network: it sees its last features at 1x1 pixel.
_base_ = 'static_resnet20_b64_cifar10.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        widen_factor=0.5,
        act_cfg=dict(type='mmpse.InPlaceReLU6'),
    ),
    head=dict(in_channels=1280),
)
train_dataloader = dict(batch_size=128)
