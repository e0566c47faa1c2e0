# Cityscapes whose *training* set is split in 10 parts: on one (297 images) subnets are judged, on
# the others the supernet is trained. The official validation set is not touched.
_base_ = 'mmseg::_base_/datasets/cityscapes.py'
held_out = dict(type='mmpretrain.KFoldDataset', num_splits=10, fold=0, seed=0)
train = dict(
    type='CityscapesDataset',
    data_root='data/cityscapes/',
    data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
)
train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=False,  # so that a resumed run draws the same augmentations
    dataset=dict(
        _delete_=True,
        **held_out,
        dataset=dict(**train, pipeline={{_base_.train_pipeline}}),
    ),
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        **held_out,
        test_mode=True,
        dataset=dict(**train, pipeline={{_base_.test_pipeline}}),
    ),
)
