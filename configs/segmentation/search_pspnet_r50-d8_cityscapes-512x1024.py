# Search that supernet by mIoU for the best subnet at 47.5 to 50 % of the segmentor's FLOPs (head
# included, whose convolutions are the smaller for fewer features).
_base_ = [
    '../_base_/segmentors/pspnet_r50-d8_supernet.py',
    '../_base_/datasets/cityscapes_held-out.py',
    'mmseg::_base_/default_runtime.py',
]
load_from = 'work_dirs/supernet_pspnet_r50-d8_4xb8-40k_cityscapes-512x1024/iter_40000.pth'
train_cfg = dict(
    type='mmpse.EvolutionSearchLoop',
    budget=dict(flops='50%'),
    input_shape=(3, 512, 1024),
    metric='mIoU',
)
val_cfg = dict(type='ValLoop')
test_cfg = test_dataloader = test_evaluator = None
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))  # MMEngine wants one; it is not used
