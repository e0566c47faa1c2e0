# mmpretrain's ResNet-50 classifier with a slimmable backbone.
_base_ = 'mmpretrain::_base_/models/resnet50.py'
model = dict(
    type='mmpse.FitToBackbone',
    architecture='ImageClassifier',
    backbone=dict(type='mmpse.SlimmableResNet'),
)
