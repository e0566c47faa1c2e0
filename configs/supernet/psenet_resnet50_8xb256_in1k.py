# ResNet-50 supernet on ImageNet, for searches between 0.2 and 4.1 G FLOPs.
_base_ = [
    'mmpretrain::_base_/models/resnet50.py',
    '../_base_/schedules/supernet_in1k.py',
]
