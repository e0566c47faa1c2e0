# The ResNet-20 of CIFAR, otherwise as MobileNetV2.
_base_ = 'mobilenet-v2.py'
model = dict(
    backbone=dict(_delete_=True, type='mmpse.SlimmableResNetCIFAR', depth=20),
    head=dict(num_classes=10, in_channels=64, topk=(1,)),
)
