# The detector that docs/results.md prunes as a whole: 957 M FLOPs, trained from scratch, 16 epochs.
_base_ = '../_base_/detectors/retinanet_resnet18-w0p5_fpn_bccd.py'
model = dict(
    neck=dict(out_channels=96),
    bbox_head=dict(in_channels=96, feat_channels=96, stacked_convs=2),
)
train_cfg = dict(max_epochs=16, val_interval=16)
val_cfg = dict(type='ValLoop')
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=4))
