# VGG-11 with BatchNorm; 4 epochs, which take as long as the 9 of the ResNet-20.
_base_ = 'short_resnet20_cifar10.py'
model = dict(
    backbone=dict(_delete_=True, type='VGG', depth=11, norm_cfg=dict(type='BN')),
    head=dict(in_channels=512),
)
optim_wrapper = dict(optimizer=dict(lr=0.05))
train_cfg = dict(max_epochs=4, val_interval=4)
default_hooks = dict(checkpoint=dict(interval=1))
