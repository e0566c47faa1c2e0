# The MobileNetV2 1.5x pruned uniformly to the FLOPs of the searched one, as it was retrained.
custom_imports = dict(imports=['mmpse'], allow_failed_imports=False)
retrained = dict(
    subnet='work_dirs/subnets/mobilenet-v2-w1p5-300m-uniform.json',
    init_cfg=dict(
        type='Pretrained',
        checkpoint='work_dirs/mobilenet-v2-w1p5-300m-uniform_8xb256_in1k/epoch_300.pth',
        prefix='backbone.',
    ),
)
