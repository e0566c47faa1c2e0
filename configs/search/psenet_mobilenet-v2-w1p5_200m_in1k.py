# The same search at 190 to 200 M FLOPs.
_base_ = 'psenet_mobilenet-v2-w1p5_300m_in1k.py'
train_cfg = dict(budget=dict(flops='200M'))
