# The stage-wise search on the supernet that parallel subnets trained.
_base_ = 'swp_mobilenet-v2-w1p5_300m_in1k.py'

load_from = 'work_dirs/psenet_mobilenet-v2-w1p5_8xb256_in1k/epoch_50.pth'
