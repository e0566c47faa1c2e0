# The prior-driven evolutionary search on the stage-wise supernet; its prior comes from the
# distances to the fullnet that subnets had in training.
_base_ = 'psenet_mobilenet-v2-w1p5_300m_in1k.py'

load_from = 'work_dirs/swp_mobilenet-v2-w1p5_8xb256_in1k/epoch_50.pth'
