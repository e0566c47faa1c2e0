# The ResNet-50 pruned uniformly to the FLOPs of that searched at 1 G, as it was retrained.
custom_imports = dict(imports=['mmpse'], allow_failed_imports=False)
retrained = dict(
    subnet='work_dirs/subnets/resnet50-1g-uniform.json',
    init_cfg=dict(
        type='Pretrained',
        checkpoint='work_dirs/resnet50-1g-uniform_8xb32_in1k/epoch_100.pth',
        prefix='backbone.',
    ),
)
