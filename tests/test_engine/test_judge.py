import torch
from torch.utils.data import DataLoader, Dataset

from mmpse.engine.judge import BatchCache, nbytes


class Counting(Dataset):
    def __init__(self):
        self.loaded = 0

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.loaded += 1
        return dict(inputs=torch.full((2,), float(index)))


def test_batches_are_loaded_once_and_handed_out_as_copies():
    data = Counting()
    cache = BatchCache(DataLoader(data, batch_size=2))
    first = [b['inputs'].clone() for b in cache]
    for batch in cache:
        batch['inputs'].zero_()
    assert all(torch.equal(a, b['inputs']) for a, b in zip(first, cache, strict=True))
    assert data.loaded == 6


def test_a_half_read_pass_is_not_taken_for_a_whole_one():
    cache = BatchCache(DataLoader(Counting(), batch_size=2))
    next(iter(cache))
    assert len(list(cache)) == 3


def test_too_many_batches_are_loaded_anew():
    data = Counting()
    cache = BatchCache(DataLoader(data, batch_size=2), limit=20)
    assert [len(list(cache)) for _ in range(2)] == [3, 3]
    assert data.loaded == 12


def test_nbytes_counts_nested_tensors():
    assert nbytes(dict(a=[torch.zeros(4)], b=(torch.zeros(2, dtype=torch.uint8), 'x'))) == 18
