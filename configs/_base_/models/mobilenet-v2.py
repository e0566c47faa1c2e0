# An image classifier with a slimmable MobileNetV2; without `subnet` it is the supernet.
# FitToBackbone gives the head the backbone's real width: no channels to count.
model = dict(
    type='mmpse.FitToBackbone',
    architecture='ImageClassifier',
    backbone=dict(type='mmpse.SlimmableMobileNetV2', widen_factor=1.0),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=1280,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk=(1, 5),
    ),
)
