"""The batches that widths are chosen on."""

import pytest
from mmengine.dataset import BaseDataset

from mmpse.errors import UserError
from mmpse.openmmlab.models.losses import training_batches


class Numbers:
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return self.images

    def __getitem__(self, k):
        return k


def loader(images, size):
    return dict(
        batch_size=size,
        drop_last=True,
        dataset=dict(type=Numbers, images=images),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )


@pytest.mark.parametrize(
    'images, size, sizes',
    [
        (1, 8, [1]),
        (5, 8, [3, 2]),
        (17, 8, [3, 3, 3, 3, 3, 2]),
        (3, 1, [1] * 3),
        (129, 64, [16] * 8),
        (300, 8, [8] * 16),
        (300, 12, [12] * 11),
    ],
)
def test_no_image_is_left_alone_however_few_there_are(images, size, sizes):
    batches = training_batches(loader(images, size), 128, None)
    assert [len(batch) for batch in batches] == sizes
    assert sum(batches, []) == list(range(sum(sizes)))


@pytest.mark.parametrize(
    'dataset',
    [
        dict(type=Numbers, images=0),
        # MMEngine's own fails as it packs its images
        dict(type=BaseDataset, metainfo=dict(classes=('a',))),
    ],
)
def test_no_images(dataset, tmp_path):
    if dataset['type'] is BaseDataset:
        (tmp_path / 'none.json').write_text('{"metainfo": {}, "data_list": []}')
        dataset['ann_file'] = str(tmp_path / 'none.json')
    with pytest.raises(UserError, match='a dataset has no images: .* has found none'):
        training_batches(dict(loader(1, 8), dataset=dataset), 128, None)
