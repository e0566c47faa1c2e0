# MobileNetV2 0.5x. Its five strides need larger images: they are scaled to 64 pixels.
_base_ = 'short_resnet20_cifar10.py'
model = dict(
    backbone=dict(_delete_=True, type='MobileNetV2', widen_factor=0.5),
    head=dict(in_channels=1280),
)
scale = dict(type='Resize', scale=(64, 64))
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            pipeline=[
                dict(type='RandomCrop', crop_size=32, padding=4),
                dict(type='RandomFlip', prob=0.5, direction='horizontal'),
                scale,
                dict(type='PackInputs'),
            ]
        )
    )
)
val_dataloader = dict(dataset=dict(dataset=dict(pipeline=[scale, dict(type='PackInputs')])))
test_dataloader = dict(dataset=dict(pipeline=[scale, dict(type='PackInputs')]))
train_cfg = dict(max_epochs=7, val_interval=7)
