# The same as a stage-wise supernet (SP, SWP): the fullnet learns from the labels, and the stages of
# 4 subnets learn from it in every batch.
_base_ = 'psenet_resnet20_b64_cifar10.py'
model = dict(type='mmpse.StageWiseClassifier')
custom_hooks = [
    dict(type='mmpse.ChannelsLastHook'),
    dict(type='mmpse.SupernetHook', n=4, fullnet=False, divisor=2),
]
