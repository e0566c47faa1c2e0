# The same for the full network; its subnet file: configs/README.md.
_base_ = 'resnet50-2g_8xb32_in1k.py'
model = dict(backbone=dict(subnet='work_dirs/subnets/resnet50-full.json'))
