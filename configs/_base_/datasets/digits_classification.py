# The embedded digits (tools/dataset_converters/prepare_digits.py), 32x32. Subnets are judged on
# `val`, which is held out of the training set; `test` is for the final figures only.
data_preprocessor = dict(num_classes=10, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=False)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=32, padding=3),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmpse.DigitsDataset',
        task='classification',
        split='train',
        data_root='data/digits',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=150,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmpse.DigitsDataset',
        task='classification',
        split='val',
        data_root='data/digits',
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader['dataset'], split='test'))
test_evaluator = val_evaluator
