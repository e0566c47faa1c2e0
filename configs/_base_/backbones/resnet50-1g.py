# The ResNet-50 searched at 1 G FLOPs, as it was retrained.
custom_imports = dict(imports=['mmpse'], allow_failed_imports=False)
retrained = dict(
    subnet='work_dirs/psenet_resnet50_1g_in1k/best_subnet.json',
    init_cfg=dict(
        type='Pretrained',
        checkpoint='work_dirs/resnet50-1g_8xb32_in1k/epoch_100.pth',
        prefix='backbone.',
    ),
)
