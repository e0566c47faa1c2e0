# mmpretrain's ResNet-50 classifier.
_base_ = 'mmpretrain::_base_/models/resnet50.py'
