# The full MobileNetV2 1.5x, as it was retrained.
custom_imports = dict(imports=['mmpse'], allow_failed_imports=False)
retrained = dict(
    subnet='work_dirs/subnets/mobilenet-v2-w1p5-full.json',
    init_cfg=dict(
        type='Pretrained',
        checkpoint='work_dirs/mobilenet-v2-w1p5-full_8xb256_in1k/epoch_300.pth',
        prefix='backbone.',
    ),
)
