# ResNet-18 0.5x supernet with parallel subnets (PSE-Net), by the recipe of the static networks.
_base_ = 'static_resnet18-w0p5_b128_cifar10.py'
# a supernet has no statistics of its own: its subnets are sliced and recalibrated to be judged
val_cfg = val_dataloader = val_evaluator = None
test_cfg = test_dataloader = test_evaluator = None
custom_hooks = [
    dict(type='mmpse.ChannelsLastHook'),
    dict(type='mmpse.SupernetHook', n=4),
]
