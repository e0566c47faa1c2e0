# The same for the subnet that was searched at 1 G FLOPs.
_base_ = 'resnet50-2g_8xb32_in1k.py'
model = dict(backbone=dict(subnet='work_dirs/psenet_resnet50_1g_in1k/best_subnet.json'))
