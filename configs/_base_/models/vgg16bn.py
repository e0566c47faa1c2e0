# mmpretrain's VGG-16 with BatchNorm, its own classifier included, as a slimmable backbone.
_base_ = 'mmpretrain::_base_/models/vgg16bn.py'
model = dict(
    type='mmpse.FitToBackbone',
    architecture='ImageClassifier',
    backbone=dict(type='mmpse.SlimmableVGG'),
)
