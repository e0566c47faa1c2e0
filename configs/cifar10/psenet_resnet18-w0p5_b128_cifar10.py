# ResNet-18 0.5x supernet with parallel subnets (PSE-Net), by the recipe of the static networks.
_base_ = 'static_resnet18-w0p5_b128_cifar10.py'
# a supernet has no statistics of its own: its subnets are sliced and recalibrated to be judged
val_cfg = val_dataloader = val_evaluator = None
test_cfg = test_dataloader = test_evaluator = None
custom_hooks = [
    dict(type='mmpse.ChannelsLastHook'),
    # half the FLOPs are about 0.7 of the widths: narrower ones are not worth training
    dict(type='mmpse.SupernetHook', n=4, ratios=[0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
]
