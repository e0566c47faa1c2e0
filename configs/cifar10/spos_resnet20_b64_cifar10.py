# The same supernet by single paths (SPOS): one random subnet on every batch.
_base_ = 'psenet_resnet20_b64_cifar10.py'
custom_hooks = [
    dict(type='mmpse.ChannelsLastHook'),
    dict(
        type='mmpse.SupernetHook',
        n=1,
        fullnet=False,
        tinynet=False,
        sampler=dict(type='mmpse.UniformSampler'),
        divisor=2,
    ),
]
