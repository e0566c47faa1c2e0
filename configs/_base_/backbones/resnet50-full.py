# The full ResNet-50, as it was retrained.
custom_imports = dict(imports=['mmpse'], allow_failed_imports=False)
retrained = dict(
    subnet='work_dirs/subnets/resnet50-full.json',
    init_cfg=dict(
        type='Pretrained',
        checkpoint='work_dirs/resnet50-full_8xb32_in1k/epoch_100.pth',
        prefix='backbone.',
    ),
)
