# Train mmdet's published RetinaNet R-50 on as a supernet, its channels sorted first: every batch of
# 8 images is shared by 4 subnets. 22,000 iterations of batch 64 are 12 epochs, as mmdet's 1x. The
# learning rate (twice the 1x one) and the clipping are this project's, and not tuned.
# Another detector to start from:
#   --cfg-options model.init_cfg.checkpoint=my_retinanet_r50.pth
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/datasets/coco_held-out.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmpse'], allow_failed_imports=False)
randomness = dict(seed=0)
model = dict(
    # no part is frozen, and subnets are normalised by their own statistics
    backbone=dict(frozen_stages=-1, norm_eval=False, init_cfg=None),
    init_cfg=dict(
        type='mmpse.WarmStart',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r50_fpn_1x_coco/retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth',  # noqa: E501
        sort='bn',
    ),
)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4),
    clip_grad=dict(max_norm=35),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, end=500),
    dict(type='MultiStepLR', by_epoch=False, milestones=[14_667, 20_167], gamma=0.1),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=22_000)
# a supernet has no statistics of its own to validate with: the search judges its subnets
val_cfg = val_dataloader = val_evaluator = None
test_cfg = test_dataloader = test_evaluator = None
auto_scale_lr = dict(base_batch_size=64)

custom_hooks = [dict(type='mmpse.SupernetHook', n=4)]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2000, max_keep_ckpts=2))
log_processor = dict(by_epoch=False)
