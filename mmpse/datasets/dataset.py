"""The digits as a dataset of configs, ``mmpse.DigitsDataset``."""

from mmengine.dataset import BaseDataset

from mmpse.errors import UserError
from mmpse.registry import DATASETS

from .digits import CLASSES, SCENES, SPLITS, check_digits

PALETTE = [
    (228, 26, 28),
    (55, 126, 184),
    (77, 175, 74),
    (152, 78, 163),
    (255, 127, 0),
    (255, 255, 51),
    (166, 86, 40),
    (247, 129, 191),
    (0, 210, 213),
    (153, 153, 153),
]


@DATASETS.register_module(name='DigitsDataset')
def digits_dataset(
    task: str, split: str, data_root: str = 'data/digits', lazy_init: bool = False, **kwargs
) -> BaseDataset:
    """One split of the digits as OpenMMLab's own dataset class, with files and classes filled in.

    Args:
        task: ``'classification'`` gives a ``mmpretrain.CustomDataset``, ``'detection'`` a
            ``mmdet.CocoDataset``, ``'segmentation'`` a ``mmseg.BaseSegDataset``.
        split: ``'train'`` or ``'test'``; for classification ``'val'`` too.
        data_root: the folder that :func:`prepare_digits` wrote.
        lazy_init: only set up metainfo and pipeline, so that the data is not needed.
        **kwargs: further arguments of that class, as ``pipeline`` or ``filter_cfg``.

    Raises:
        FileNotFoundError: ``data_root`` is missing, or was written by another version of mmpse.
        ValueError: unknown task or split.
    """
    classes_with_background = ('background', *CLASSES)
    stock = {
        'classification': dict(
            type='mmpretrain.CustomDataset',
            data_prefix=f'cls/{split}',
            metainfo=dict(classes=CLASSES),
        ),
        'detection': dict(
            type='mmdet.CocoDataset',
            ann_file=f'scenes/annotations/{split}.json',
            data_prefix=dict(img=f'scenes/{split}/'),
            metainfo=dict(classes=CLASSES, palette=PALETTE),
        ),
        'segmentation': dict(
            type='mmseg.BaseSegDataset',
            img_suffix='.png',
            data_prefix=dict(img_path=f'scenes/{split}', seg_map_path=f'scenes/seg/{split}'),
            metainfo=dict(classes=classes_with_background, palette=[(0, 0, 0), *PALETTE]),
        ),
    }
    if task not in stock:
        raise UserError(f'mmpse.DigitsDataset: task={task!r}, expected one of {list(stock)}')
    splits = SPLITS if task == 'classification' else SCENES
    if split not in splits:
        raise UserError(f'mmpse.DigitsDataset: split={split!r}, {task} has {list(splits)}')
    if not lazy_init:
        check_digits(data_root)
    return DATASETS.build({**stock[task], 'data_root': data_root, 'lazy_init': lazy_init, **kwargs})
