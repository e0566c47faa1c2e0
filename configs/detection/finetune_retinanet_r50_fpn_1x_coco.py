# Fine-tune the searched subnet on all of COCO, mmdet's 1x, from the supernet's weights, which are
# cut as they load. The supernet has no statistics of the subnet: they are learned here
# (norm_eval=False), over all GPUs, since each has but two images.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmpse'], allow_failed_imports=False)
model = dict(
    type='mmpse.Pruned',
    architecture='RetinaNet',
    subnet='work_dirs/search_retinanet_r50_fpn_coco/best_subnet.json',
    backbone=dict(frozen_stages=-1, norm_eval=False, norm_cfg=dict(type='SyncBN'), init_cfg=None),
)
load_from = 'work_dirs/supernet_retinanet_r50_fpn_8xb8-22k_coco/iter_22000.pth'
