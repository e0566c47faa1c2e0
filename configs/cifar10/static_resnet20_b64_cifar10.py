# One static network trained alone: the full network, or a subnet with
#   --cfg-options model.type=mmpse.Pruned model.architecture=ImageClassifier \
#       model.subnet=subnet.json
# tools/evidence trains them all with this recipe.
_base_ = [
    '../_base_/models/resnet20_cifar.py',
    '../_base_/datasets/cifar10_held-out.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=5, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=10)
val_cfg = dict()
test_cfg = dict()
custom_hooks = [dict(type='mmpse.ChannelsLastHook')]
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=2))
