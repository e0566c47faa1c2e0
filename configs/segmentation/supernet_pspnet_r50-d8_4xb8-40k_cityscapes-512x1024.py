# Train mmseg's published PSPNet R-50-D8 on as a supernet, its channels sorted first: every batch of
# 8 images is shared by 4 subnets. The schedule is that of 40,000 iterations of mmseg, with a batch
# of 32 instead of 8; it is not tuned.
# Another segmentor to start from:
#   --cfg-options model.init_cfg.checkpoint=my_pspnet_r50-d8.pth
_base_ = [
    '../_base_/segmentors/pspnet_r50-d8_supernet.py',
    '../_base_/datasets/cityscapes_held-out.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_40k.py',
]
model = dict(
    init_cfg=dict(
        type='mmpse.WarmStart',
        checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pspnet/pspnet_r50-d8_512x1024_80k_cityscapes/pspnet_r50-d8_512x1024_80k_cityscapes_20200606_112131-2376f12b.pth',  # noqa: E501
        sort='bn',
    )
)
# a supernet has no statistics of its own to validate with: the search judges its subnets
val_cfg = val_dataloader = val_evaluator = None
test_cfg = test_dataloader = test_evaluator = None

custom_hooks = [dict(type='mmpse.SupernetHook', n=4)]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
