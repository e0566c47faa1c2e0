# Search that supernet by box mAP for the best subnet at 76 to 80 % of the detector's FLOPs. The
# neck and the head alone have about 65 %: this leaves the backbone less than half of its own.
_base_ = [
    '../_base_/detectors/retinanet_r50_fpn_supernet.py',
    '../_base_/datasets/coco_held-out.py',
    'mmdet::_base_/default_runtime.py',
]
load_from = 'work_dirs/supernet_retinanet_r50_fpn_8xb8-22k_coco/iter_22000.pth'
train_cfg = dict(
    type='mmpse.EvolutionSearchLoop',
    budget=dict(flops='80%'),
    input_shape=(3, 800, 1280),
    metric='coco/bbox_mAP',
)
val_cfg = dict(type='ValLoop')
test_cfg = test_dataloader = test_evaluator = None
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))  # MMEngine wants one; it is not used
