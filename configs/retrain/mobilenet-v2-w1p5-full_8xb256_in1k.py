# The same for the full network; its subnet file: configs/README.md.
_base_ = 'mobilenet-v2-w1p5-300m_8xb256_in1k.py'
model = dict(backbone=dict(subnet='work_dirs/subnets/mobilenet-v2-w1p5-full.json'))
