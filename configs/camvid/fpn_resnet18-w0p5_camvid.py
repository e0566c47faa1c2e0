# The segmentor that docs/results.md prunes as a whole.
_base_ = '../_base_/segmentors/fpn_resnet18-w0p5_camvid.py'
