# Search the stages of that supernet, and join them at half the FLOPs.
_base_ = 'search_mobilenet-v2_digits.py'

load_from = 'work_dirs/swp-supernet_mobilenet-v2_digits/epoch_40.pth'
train_cfg = dict(
    _delete_=True,
    type='mmpse.StageWiseSearchLoop',
    budget=dict(flops='50%'),
    input_shape=(3, 32, 32),
    metric='accuracy/top1',
    candidates=100,
    calibration=4,
)
