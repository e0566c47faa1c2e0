# The same for the uniformly pruned network of those FLOPs; its subnet file: configs/README.md.
_base_ = 'mobilenet-v2-w1p5-300m_8xb256_in1k.py'
model = dict(backbone=dict(subnet='work_dirs/subnets/mobilenet-v2-w1p5-300m-uniform.json'))
