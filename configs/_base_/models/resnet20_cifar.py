# A classifier with the ResNet-20 of CIFAR.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmpse.ResNetCIFAR', depth=20),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=64,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk=(1,),
    ),
)
