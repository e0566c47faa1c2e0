# Search that supernet for the best subnet at half the FLOPs, on the held-out training images.
_base_ = 'static_resnet18-w0p5_b128_cifar10.py'
load_from = 'work_dirs/psenet_resnet18-w0p5_b128_cifar10/epoch_100.pth'
param_scheduler = None
train_cfg = dict(
    _delete_=True,
    type='mmpse.EvolutionSearchLoop',
    budget=dict(flops='50%'),
    input_shape=(3, 64, 64),
    metric='accuracy/top1',
)
test_cfg = test_dataloader = test_evaluator = None
