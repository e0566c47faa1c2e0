# The same search by a predictor of the losses that training recorded: ten subnets are judged.
_base_ = 'search_mobilenet-v2_digits.py'
train_cfg = dict(
    _delete_=True,
    type='mmpse.PredictorSearchLoop',
    budget=dict(flops='50%'),
    input_shape=(3, 32, 32),
    metric='accuracy/top1',
    calibration=4,
)
