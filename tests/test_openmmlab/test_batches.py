"""Batches that models may write into, again and again the same."""

import copy

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from mmpse.openmmlab.models.batches import HeldBatches, copied, nbytes


def classified(k):
    sample = DataSample().set_gt_label(k)
    sample.set_metainfo(dict(img_path=f'{k}.jpg', ori_shape=(8, 6)))
    return sample


def detected(k):
    sample = DetDataSample(metainfo=dict(img_id=k, instances=[dict(bbox=[0.0, 1, 2, 3])]))
    sample.gt_instances = InstanceData(
        bboxes=HorizontalBoxes(torch.rand(2, 4) * 8), labels=torch.tensor([k, 1])
    )
    return sample


def segmented(k):
    return SegDataSample(gt_sem_seg=PixelData(data=torch.randint(3, (1, 8, 6))))


BATCHES = {
    'images of one size': lambda: dict(
        inputs=[torch.randint(256, (3, 8, 6), dtype=torch.uint8) for _ in range(3)],
        data_samples=[classified(k) for k in range(3)],
    ),
    'images of many sizes': lambda: dict(
        inputs=[torch.rand(3, 8, 6 + k) for k in range(3)],
        data_samples=[detected(k) for k in range(3)],
    ),
    'one tensor': lambda: dict(
        inputs=torch.rand(3, 3, 8, 6), data_samples=[segmented(k) for k in range(3)]
    ),
    'a tuple': lambda: (torch.rand(2, 3), [torch.tensor(3), 'name'], dict(x=np.arange(3))),
}


def same(a, b) -> bool:
    """Of one structure and content."""
    if type(a) is not type(b):
        return False
    if isinstance(a, HorizontalBoxes):
        return torch.equal(a.tensor, b.tensor)
    if torch.is_tensor(a):
        return a.dtype == b.dtype and torch.equal(a.cpu(), b.cpu())
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return same(vars(a), vars(b)) if hasattr(a, 'metainfo') else a == b


def spoil(tree):
    """What models and metrics do to a batch."""
    if torch.is_tensor(tree):
        tree.zero_()
    elif isinstance(tree, HorizontalBoxes):
        tree.tensor.zero_()
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            spoil(value)
        tree.clear() if isinstance(tree, list) else None
    elif isinstance(tree, dict):
        for value in tree.values():
            spoil(value)
    elif hasattr(tree, 'metainfo'):
        for value in tree.values():
            spoil(value)
        tree.set_metainfo(dict(pad_shape=(9, 9)))
        tree.set_field(torch.ones(2), 'pred')
        if 'gt_instances' in tree:
            tree.gt_instances.more = torch.ones(2)
        for key in tree.metainfo_keys():
            value = tree.get(key)
            value.clear() if isinstance(value, list) else None


@pytest.mark.parametrize('kind', BATCHES)
def test_every_pass_gives_the_same(kind):
    batch = BATCHES[kind]()
    expected = copy.deepcopy(batch)
    held = HeldBatches([batch, batch])
    spoil(batch)
    for _ in range(3):
        passed = list(held)
        assert len(passed) == len(held) == 2
        for fresh in passed:
            assert same(fresh, expected)
            spoil(fresh)


@pytest.mark.parametrize('kind', BATCHES)
def test_what_is_done_to_a_copy_leaves_the_batch(kind):
    batch = BATCHES[kind]()
    expected = copy.deepcopy(batch)
    assert same(copied(batch), expected)
    spoil(copied(batch))
    assert same(batch, expected)


def test_nbytes_counts_nested_tensors():
    assert nbytes(dict(a=[torch.zeros(4)], b=(torch.zeros(2, dtype=torch.uint8), 'x'))) == 18
    assert nbytes([segmented(0)]) >= 8 * 48
