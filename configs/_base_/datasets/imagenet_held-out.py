# ImageNet whose *training* set is split in 26 parts: on one (about 50 images a class) subnets are
# judged, on the others the supernet is trained. The official validation set is not touched.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64.py'
held_out = dict(type='KFoldDataset', num_splits=26, fold=0, seed=0)
train_dataloader = dict(
    batch_size=256,
    num_workers=8,
    persistent_workers=False,  # so that a resumed run draws the same augmentations
    drop_last=True,
    dataset=dict(
        _delete_=True,
        **held_out,
        dataset=dict(
            type='ImageNet',
            data_root='data/imagenet',
            split='train',
            pipeline={{_base_.train_pipeline}},
        ),
    ),
)
val_dataloader = dict(
    batch_size=256,
    dataset=dict(
        _delete_=True,
        **held_out,
        test_mode=True,
        dataset=dict(
            type='ImageNet',
            data_root='data/imagenet',
            split='train',
            pipeline={{_base_.test_pipeline}},
        ),
    ),
)
