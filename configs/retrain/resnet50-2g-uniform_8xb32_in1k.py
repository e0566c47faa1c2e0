# The same for the uniformly pruned network of those FLOPs; its subnet file: configs/README.md.
_base_ = 'resnet50-2g_8xb32_in1k.py'
model = dict(backbone=dict(subnet='work_dirs/subnets/resnet50-2g-uniform.json'))
