# Search the MobileNetV2 1.5x supernet for the best subnet at 285 to 300 M FLOPs; other budgets with
#   --cfg-options train_cfg.budget.flops=250M
_base_ = [
    '../_base_/models/mobilenet-v2.py',
    '../_base_/schedules/search_in1k.py',
]
model = dict(backbone=dict(widen_factor=1.5), head=dict(in_channels=1920))
load_from = 'work_dirs/psenet_mobilenet-v2-w1p5_8xb256_in1k/epoch_50.pth'
train_cfg = dict(budget=dict(flops='300M'))
