# The same supernet by the sandwich rule (AutoSlim, US-Nets): fullnet, tinynet and two random
# subnets on every batch, one after the other; all but the fullnet learn from the fullnet's scores.
_base_ = 'psenet_resnet20_b64_cifar10.py'
optim_wrapper = dict(accumulative_counts=4)
custom_hooks = [
    dict(type='mmpse.ChannelsLastHook'),
    dict(
        type='mmpse.SupernetHook',
        n=4,
        serial=True,
        distillation=dict(),
        sampler=dict(type='mmpse.UniformSampler'),
        divisor=2,
    ),
]
