# The same search at 0.95 x 3 to 3 G FLOPs.
_base_ = 'psenet_resnet50_2g_in1k.py'
train_cfg = dict(budget=dict(flops='3G'))
