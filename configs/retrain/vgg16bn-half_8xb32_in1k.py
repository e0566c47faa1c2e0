# Train the subnet searched at half the FLOPs from scratch on all of ImageNet, with mmpretrain's own
# recipe for VGG16-BN: 100 epochs, batch 256, lr 0.1 divided by 10 at epochs 30, 60 and 90.
_base_ = [
    '../_base_/models/vgg16bn.py',
    'mmpretrain::_base_/datasets/imagenet_bs32_pil_resize.py',
    'mmpretrain::_base_/schedules/imagenet_bs256.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(subnet='work_dirs/psenet_vgg16bn_half_in1k/best_subnet.json'))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2, save_best='auto'))
