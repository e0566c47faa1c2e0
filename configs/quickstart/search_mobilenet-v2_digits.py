# Search the supernet for the best subnet at half the FLOPs.
_base_ = [
    '../_base_/models/mobilenet-v2.py',
    '../_base_/datasets/digits_classification.py',
    '../_base_/default_runtime.py',
]
model = dict(head=dict(num_classes=10, topk=(1,)))

load_from = 'work_dirs/supernet_mobilenet-v2_digits/epoch_40.pth'
train_cfg = dict(
    type='mmpse.EvolutionSearchLoop',
    budget=dict(flops='50%'),
    input_shape=(3, 32, 32),
    metric='accuracy/top1',
    population=20,
    generations=8,
    parents=5,
    calibration=4,
)
val_cfg = dict()
test_cfg = test_dataloader = test_evaluator = None
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))  # MMEngine wants one; it is not used
custom_hooks = [dict(type='mmpse.ChannelsLastHook')]
