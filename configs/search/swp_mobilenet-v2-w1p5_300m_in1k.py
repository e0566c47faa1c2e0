# Search the stages of the stage-wise MobileNetV2 1.5x supernet, and join them at 300 M FLOPs.
_base_ = 'psenet_mobilenet-v2-w1p5_300m_in1k.py'

load_from = 'work_dirs/swp_mobilenet-v2-w1p5_8xb256_in1k/epoch_50.pth'
train_cfg = dict(type='mmpse.StageWiseSearchLoop')
