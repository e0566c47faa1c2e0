# Search the VGG16-BN supernet for the best subnet at 47.5 to 50 % of its FLOPs.
_base_ = [
    'mmpretrain::_base_/models/vgg16bn.py',
    '../_base_/schedules/search_in1k.py',
]
load_from = 'work_dirs/psenet_vgg16bn_8xb64_in1k/epoch_50.pth'
train_cfg = dict(budget=dict(flops='50%'))
