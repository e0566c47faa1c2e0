# Search the MobileNetV2 1.5x supernet for the best subnet at 285 to 300 M FLOPs; other budgets with
#   --cfg-options train_cfg.budget.flops=200M
_base_ = [
    '../_base_/models/mobilenet-v2.py',
    '../_base_/datasets/imagenet_held-out.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(widen_factor=1.5))

load_from = 'work_dirs/psenet_mobilenet-v2-w1p5_8xb256_in1k/epoch_50.pth'
train_cfg = dict(
    type='mmpse.EvolutionSearchLoop',
    budget=dict(flops='300M'),
    input_shape=(3, 224, 224),
    metric='accuracy/top1',
)
val_cfg = dict()
test_cfg = test_dataloader = test_evaluator = None
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))  # MMEngine wants one; it is not used
