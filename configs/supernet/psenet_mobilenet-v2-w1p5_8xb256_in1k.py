# MobileNetV2 1.5x supernet on ImageNet, for searches between 40 and 694 M FLOPs.
_base_ = [
    '../_base_/models/mobilenet-v2.py',
    '../_base_/datasets/imagenet_held-out.py',
    '../_base_/schedules/supernet_bs2048.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(widen_factor=1.5))
