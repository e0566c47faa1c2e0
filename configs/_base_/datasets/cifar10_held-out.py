# CIFAR-10 whose *training* set is split in 25 parts: on one (200 images a class) subnets are
# judged, on the others they are trained. The test set is for the final figure of static networks.
_base_ = 'mmpretrain::_base_/datasets/cifar10_bs16.py'
held_out = dict(type='KFoldDataset', num_splits=25, fold=0, seed=0)
train_dataloader = dict(
    num_workers=0,  # images of 32 pixels: a worker would cost more than it saves
    drop_last=True,
    dataset=dict(
        _delete_=True,
        **held_out,
        dataset=dict(
            type='CIFAR10',
            data_root='data/cifar10',
            split='train',
            download=False,
            pipeline={{_base_.train_pipeline}},
        ),
    ),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=0,
    dataset=dict(
        _delete_=True,
        **held_out,
        test_mode=True,
        dataset=dict(
            type='CIFAR10',
            data_root='data/cifar10',
            split='train',
            download=False,
            pipeline={{_base_.test_pipeline}},
        ),
    ),
)
test_dataloader = dict(batch_size=500, num_workers=0, dataset=dict(download=False))
