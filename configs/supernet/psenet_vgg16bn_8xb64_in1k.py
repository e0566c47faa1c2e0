# VGG16-BN supernet on ImageNet. VGG's activations are large: batch 512, and the schedule's learning
# rate scaled with it, 0.5 x 512 / 2048. No published neighbour prunes VGG on ImageNet this way.
_base_ = [
    'mmpretrain::_base_/models/vgg16bn.py',
    '../_base_/schedules/supernet_in1k.py',
]
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=0.125))
auto_scale_lr = dict(base_batch_size=512)
