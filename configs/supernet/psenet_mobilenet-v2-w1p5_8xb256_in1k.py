# MobileNetV2 1.5x supernet on ImageNet, for searches between 40 and 694 M FLOPs.
_base_ = [
    '../_base_/models/mobilenet-v2.py',
    '../_base_/schedules/supernet_in1k.py',
]
model = dict(backbone=dict(widen_factor=1.5), head=dict(in_channels=1920))
