# Train a MobileNetV2 supernet on the embedded digits stage by stage.
_base_ = 'supernet_mobilenet-v2_digits.py'
model = dict(architecture='mmpse.StageWiseClassifier')
custom_hooks = [
    dict(type='mmpse.ChannelsLastHook'),
    dict(type='mmpse.SupernetHook', n=4, fullnet=False, execution='masked'),
]
