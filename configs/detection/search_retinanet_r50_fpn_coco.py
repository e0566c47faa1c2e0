# Search that supernet by box mAP for the best subnet at 47.5 to 50 % of the detector's FLOPs, neck
# and head included.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/datasets/coco_held-out.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmpse'], allow_failed_imports=False)
randomness = dict(seed=0)
model = dict(backbone=dict(init_cfg=None))
load_from = 'work_dirs/supernet_retinanet_r50_fpn_8xb8-22k_coco/iter_22000.pth'
train_cfg = dict(
    type='mmpse.EvolutionSearchLoop',
    budget=dict(flops='50%'),
    input_shape=(3, 800, 1280),
    metric='coco/bbox_mAP',
)
val_cfg = dict(type='ValLoop')
test_cfg = test_dataloader = test_evaluator = None
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))  # MMEngine wants one; it is not used
