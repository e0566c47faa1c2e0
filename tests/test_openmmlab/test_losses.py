"""The batches that widths are chosen on."""

import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import MessageHub
from mmengine.model import BaseModel

from mmpse.errors import UserError
from mmpse.openmmlab.models.losses import batch_losses, training_batches


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


def test_settings_of_workers_do_not_matter():
    config = dict(
        loader(4, 2),
        num_workers=2,
        persistent_workers=True,
        prefetch_factor=4,
        multiprocessing_context='spawn',
        timeout=60,
    )
    assert sum(training_batches(config, 4, None), []) == [0, 1, 2, 3]


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


class Phased(BaseModel):
    """Loses something else in its first epochs, as TOOD."""

    def forward(self, inputs, data_samples, mode):
        epoch = MessageHub.get_current_instance().get_info('epoch')
        return dict(loss=torch.tensor(1.0 if epoch < 4 else 2.0))


@pytest.mark.parametrize('info', [{}, dict(epoch=1, iter=30)])
def test_losses_are_those_at_the_end_of_a_training(info, monkeypatch):
    """Whether none was run in this process, or another one that was short."""
    hub = MessageHub.get_current_instance()
    monkeypatch.setattr(hub, '_runtime_info', dict(info))
    batch = dict(inputs=torch.zeros(1), data_samples=[])
    assert batch_losses(Phased(), [batch]).tolist() == [2.0]
    assert hub.runtime_info == info
