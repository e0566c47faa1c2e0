# The same for the subnet that was searched at 500 M FLOPs.
_base_ = 'mobilenet-v2-w1p5-300m_8xb256_in1k.py'
model = dict(backbone=dict(subnet='work_dirs/psenet_mobilenet-v2-w1p5_500m_in1k/best_subnet.json'))
