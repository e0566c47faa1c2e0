# mmdet's RetinaNet with its ResNet-50 as a supernet. No part of it is frozen, and every subnet of a
# batch is normalised by its own statistics.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
custom_imports = dict(imports=['mmpse'], allow_failed_imports=False)
randomness = dict(seed=0)
model = dict(
    type='mmpse.FitToBackbone',
    architecture='RetinaNet',
    backbone=dict(
        type='mmpse.Slimmable',
        architecture='mmdet.ResNet',
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None,  # the detector's own checkpoint is loaded
    ),
)
