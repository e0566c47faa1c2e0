# Search the stages of the stage-wise ResNet-50 supernet, and join them at 2 G FLOPs.
_base_ = 'psenet_resnet50_2g_in1k.py'

load_from = 'work_dirs/swp_resnet50_8xb256_in1k/epoch_50.pth'
train_cfg = dict(type='mmpse.StageWiseSearchLoop')
