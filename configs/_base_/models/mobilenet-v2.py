# mmpretrain's MobileNetV2 classifier, with activations that take less memory in training.
_base_ = 'mmpretrain::_base_/models/mobilenet_v2_1x.py'
model = dict(backbone=dict(act_cfg=dict(type='mmpse.InPlaceReLU6')))
