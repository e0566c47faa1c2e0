# mmpretrain's VGG-16 with BatchNorm, its own classifier included.
_base_ = 'mmpretrain::_base_/models/vgg16bn.py'
