# Supernet on ImageNet: 50 epochs, batch 2048, SGD with Nesterov momentum, lr 0.5, weight decay 1e-4
# (AutoSlim's, as MMRazor has it), the lr falling linearly. This project's: 5 epochs of warm-up, no
# decay of scales and biases, 4 parallel subnets in every batch.
_base_ = ['../datasets/imagenet_held-out.py', '../default_runtime.py']
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.5, momentum=0.9, nesterov=True, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='PolyLR', power=1.0, eta_min=0, by_epoch=True, begin=5, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=50)
# a supernet has no statistics of its own to validate with: the search judges its subnets
val_cfg = val_dataloader = val_evaluator = None
test_cfg = test_dataloader = test_evaluator = None
auto_scale_lr = dict(base_batch_size=2048)

custom_hooks = [dict(type='mmpse.SupernetHook', n=4)]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
