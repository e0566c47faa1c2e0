# For detectors and segmentors small enough for a CPU: AdamW, 20 iterations of warm-up, and a cosine
# that ends with the last of the config's `train_cfg.max_epochs`.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=1e-4),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, end=20),
    dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop')
test_cfg = dict(type='TestLoop')
