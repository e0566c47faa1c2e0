# Train the subnet searched at 2 G FLOPs from scratch on all of ImageNet: 100 epochs, batch 256,
# lr 0.1, mmpretrain's cosine schedule (the published neighbours retrain ResNet-50 for 100 to 120
# epochs, batch 256 to 512, lr 0.1 to 0.2). From the supernet's weights, which are sliced on load:
#   --cfg-options load_from=work_dirs/psenet_resnet50_8xb256_in1k/epoch_50.pth
_base_ = [
    '../_base_/models/resnet50.py',
    'mmpretrain::_base_/datasets/imagenet_bs32.py',
    'mmpretrain::_base_/schedules/imagenet_bs256_coslr.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(subnet='work_dirs/psenet_resnet50_2g_in1k/best_subnet.json'))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2, save_best='auto'))
