# COCO whose *training* set is split in 58 parts: on one (about 2,000 images) subnets are judged, on
# the others the supernet is trained. val2017 is not touched. Both sides leave out the same images
# (those without boxes): the parts would overlap otherwise.
_base_ = 'mmdet::_base_/datasets/coco_detection.py'
held_out = dict(type='mmpretrain.KFoldDataset', num_splits=58, fold=0, seed=0)
train2017 = dict(
    type='CocoDataset',
    data_root='data/coco/',
    ann_file='annotations/instances_train2017.json',
    data_prefix=dict(img='train2017/'),
    filter_cfg=dict(filter_empty_gt=True, min_size=32),
)
train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=False,  # so that a resumed run draws the same augmentations
    sampler=dict(type='InfiniteSampler'),  # there is no last batch that subnets could not share
    dataset=dict(
        _delete_=True,
        **held_out,
        dataset=dict(**train2017, pipeline={{_base_.train_pipeline}}),
    ),
)
val_dataloader = dict(
    num_workers=8,
    dataset=dict(
        _delete_=True,
        **held_out,
        test_mode=True,
        dataset=dict(
            **train2017,
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='Resize', scale=(1333, 800), keep_ratio=True),
                dict(
                    type='PackDetInputs',
                    meta_keys=(
                        *('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
                        'instances',
                    ),
                ),
            ],
        ),
    ),
)
# the true boxes come with the images: an annotation file would count the other parts as missed
val_evaluator = dict(ann_file=None)
