# MobileNetV2 1.5x as a stage-wise supernet (SP, SWP): the fullnet learns from the labels, and the
# stages of 4 subnets learn from it in every batch. The schedule is that of the parallel supernet.
_base_ = 'psenet_mobilenet-v2-w1p5_8xb256_in1k.py'
model = dict(type='mmpse.StageWiseClassifier')
custom_hooks = [dict(type='mmpse.SupernetHook', n=4, fullnet=False)]
