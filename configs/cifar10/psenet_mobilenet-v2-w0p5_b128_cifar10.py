# MobileNetV2 0.5x supernet on CIFAR-10 with parallel subnets, to compare ways of training with:
# tools/benchmarks/equal_time.py. The stock network: it sees its last features at 1x1 pixel.
_base_ = [
    '../_base_/models/mobilenet-v2.py',
    'mmpretrain::_base_/datasets/cifar10_bs16.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(widen_factor=0.5), head=dict(num_classes=10, topk=(1,)))

train_dataloader = dict(batch_size=128, drop_last=True)
max_epochs = 100
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=max_epochs - 5, begin=5, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
# a supernet has no statistics of its own: its subnets are sliced and recalibrated to be judged
val_cfg = val_dataloader = val_evaluator = None
test_dataloader = dict(batch_size=500)
test_cfg = dict()

custom_hooks = [
    dict(type='mmpse.ChannelsLastHook'),
    dict(type='mmpse.SupernetHook', n=4),
]
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=2))
