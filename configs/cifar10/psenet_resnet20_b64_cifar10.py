# ResNet-20 supernet with parallel subnets (PSE-Net), by the recipe of the static networks.
_base_ = 'static_resnet20_b64_cifar10.py'
# a supernet has no statistics of its own: its subnets are sliced and recalibrated to be judged
val_cfg = val_dataloader = val_evaluator = None
test_cfg = test_dataloader = test_evaluator = None
custom_hooks = [
    dict(type='mmpse.ChannelsLastHook'),
    # of nine ratios of 16 channels, multiples of 2 leave seven widths, multiples of 8 two
    dict(type='mmpse.SupernetHook', n=4, divisor=2),
]
