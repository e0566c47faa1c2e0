# mmdet's RetinaNet with a ResNet-18 of half the width: 957 M FLOPs, 16 epochs from scratch.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/default_runtime.py',
    '../_base_/datasets/bccd.py',
    '../_base_/schedules/adamw_cosine.py',
]
model = dict(
    # RGB, CIFAR-10's statistics
    data_preprocessor=dict(mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255]),
    backbone=dict(
        depth=18,
        stem_channels=32,
        base_channels=32,
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=96, num_outs=3),
    bbox_head=dict(
        num_classes=3,
        in_channels=96,
        feat_channels=96,
        stacked_convs=2,
        anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32]),
    ),
)
train_cfg = dict(max_epochs=16, val_interval=16)
val_cfg = dict(type='ValLoop')
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=4))
