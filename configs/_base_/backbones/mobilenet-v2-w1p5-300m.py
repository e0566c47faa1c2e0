# The MobileNetV2 1.5x searched at 300 M FLOPs, as it was retrained.
custom_imports = dict(imports=['mmpse'], allow_failed_imports=False)
retrained = dict(
    subnet='work_dirs/psenet_mobilenet-v2-w1p5_300m_in1k/best_subnet.json',
    init_cfg=dict(
        type='Pretrained',
        checkpoint='work_dirs/mobilenet-v2-w1p5-300m_8xb256_in1k/epoch_300.pth',
        prefix='backbone.',
    ),
)
