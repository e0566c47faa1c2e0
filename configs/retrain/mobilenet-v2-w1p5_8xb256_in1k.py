# Train the searched subnet from scratch on all of ImageNet: 300 epochs, batch 2048, lr 0.5, weight
# decay 4e-5, label smoothing 0.1 (what the published neighbours retrain MobileNetV2 with; the lr
# falls linearly, and the 5 epochs of warm-up are this project's). Another subnet:
#   --cfg-options model.subnet=other_subnet.json
# The full network: model.subnet=None.
_base_ = [
    '../_base_/models/mobilenet-v2.py',
    'mmpretrain::_base_/datasets/imagenet_bs64.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='mmpse.Pruned',
    architecture='ImageClassifier',
    subnet='work_dirs/psenet_mobilenet-v2-w1p5_300m_in1k/best_subnet.json',
    backbone=dict(widen_factor=1.5),
    head=dict(
        in_channels=1920,
        loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)
train_dataloader = dict(batch_size=256, num_workers=8)

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.5, momentum=0.9, nesterov=True, weight_decay=4e-5),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='PolyLR', power=1.0, eta_min=0, by_epoch=True, begin=5, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=5)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=2048)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2, save_best='auto'))
