# mmdet's RetinaNet, 1x COCO, with the searched MobileNetV2 as its backbone. The neck's widths
# follow from the subnet file.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmpse'], allow_failed_imports=False)
model = dict(
    type='mmpse.FitToBackbone',
    architecture='RetinaNet',
    backbone=dict(
        _delete_=True,
        type='mmpse.SlimmableMobileNetV2',
        widen_factor=1.5,
        subnet='work_dirs/psenet_mobilenet-v2-w1p5_300m_in1k/best_subnet.json',
        out_indices=(1, 2, 4, 7),
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/mobilenet-v2-w1p5-300m_8xb256_in1k/epoch_300.pth',
            prefix='backbone.',
        ),
    ),
)
