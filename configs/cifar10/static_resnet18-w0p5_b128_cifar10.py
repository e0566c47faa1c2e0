# The same with a ResNet-18 of half the width, the stock network on images enlarged to 64 pixels: a
# backbone for detectors and segmentors (tools/evidence/downstream.py).
_base_ = 'static_resnet20_b64_cifar10.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        stem_channels=32,
        base_channels=32,
    ),
    head=dict(in_channels=256),
)
enlarge = dict(type='Resize', scale=64)
train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    enlarge,
    dict(type='PackInputs'),
]
test_pipeline = [enlarge, dict(type='PackInputs')]
train_dataloader = dict(batch_size=128, dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(dataset=dict(pipeline=test_pipeline)))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
