# Search the ResNet-50 supernet for the best subnet at 1.9 to 2 G FLOPs. The supernet that started
# from a public checkpoint:
#   --cfg-options load_from=work_dirs/psenet_resnet50-pretrained_8xb256_in1k/epoch_50.pth
_base_ = [
    'mmpretrain::_base_/models/resnet50.py',
    '../_base_/schedules/search_in1k.py',
]
load_from = 'work_dirs/psenet_resnet50_8xb256_in1k/epoch_50.pth'
train_cfg = dict(budget=dict(flops='2G'))
