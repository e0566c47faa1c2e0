# Train a MobileNetV2 supernet on the embedded digits with parallel subnets.
_base_ = [
    '../_base_/models/mobilenet-v2.py',
    '../_base_/datasets/digits_classification.py',
    '../_base_/default_runtime.py',
]
model = dict(head=dict(num_classes=10, topk=(1,)))

train_dataloader = dict(batch_size=128)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.06, momentum=0.9, nesterov=True, weight_decay=1e-4)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=True, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=2, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=40)
# a supernet has no statistics of its own to validate with: the search judges its subnets
val_cfg = val_dataloader = val_evaluator = None
test_cfg = test_dataloader = test_evaluator = None

custom_hooks = [
    dict(type='mmpse.ChannelsLastHook'),
    dict(
        type='mmpse.SupernetHook',
        n=4,
        # with images this small the time goes into calls, not into channels
        execution='masked',
        # half the FLOPs are about 0.7 of the widths: narrower ones are not worth training
        ratios=[0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
    ),
]
default_hooks = dict(
    checkpoint=dict(interval=5, max_keep_ckpts=2, save_last=True), logger=dict(interval=8)
)
