# A ResNet-20 on the first 10,000 training images, 9 epochs, short of what it can learn:
# tools/evidence/whole.py trains it, and prunes it as a whole.
_base_ = [
    '../_base_/models/resnet20_cifar.py',
    '../_base_/datasets/cifar10_held-out.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(batch_size=64, dataset=dict(dataset=dict(indices=10_000)))
val_dataloader = dict(dataset=dict(dataset=dict(indices=10_000)))
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=1, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=9, val_interval=9)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(interval=3, max_keep_ckpts=2))
