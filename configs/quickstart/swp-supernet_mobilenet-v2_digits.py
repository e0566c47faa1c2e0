# Train a MobileNetV2 supernet on the embedded digits stage by stage.
_base_ = 'supernet_mobilenet-v2_digits.py'
model = dict(type='mmpse.StageWiseClassifier')
custom_hooks = [
    dict(type='mmpse.ChannelsLastHook'),
    dict(
        type='mmpse.SupernetHook',
        n=4,
        fullnet=False,
        execution='masked',
        ratios=[0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
    ),
]
