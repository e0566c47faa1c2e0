"""The experiments of docs/results.md: images made up in CIFAR-10's form, records, the page."""

import hashlib
import json
import pickle
import sys

import numpy as np
import pytest
from conftest import ROOT
from mmpretrain.datasets import CIFAR10


@pytest.fixture(autouse=True)
def tools(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools/evidence')
    yield
    for name in [path.stem for path in (ROOT / 'tools/evidence').glob('*.py')]:
        sys.modules.pop(name, None)


@pytest.fixture(name='cifar10')  # so that importing it hides no argument
def cifar10_fixture(tmp_path, monkeypatch, rng):
    """80 training and 20 test images; the first pixel of each says which one it is."""
    folder = tmp_path / 'data' / CIFAR10.base_folder
    folder.mkdir(parents=True)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    def batch(name, count):
        images = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        images[:, 0] = np.arange(count)
        content = dict(data=images, labels=rng.integers(0, 10, count).tolist())
        return [[name, write(name, content)]]

    monkeypatch.setattr(CIFAR10, 'train_list', batch('data_batch_1', 80))
    monkeypatch.setattr(CIFAR10, 'test_list', batch('test_batch', 20))
    labels = dict(label_names=list('abcdefghij'))
    monkeypatch.setattr(CIFAR10, 'meta', dict(CIFAR10.meta, md5=write('batches.meta', labels)))
    return folder.parent


def record(**figures):
    common = dict(
        seed=0,
        train_seconds=1.0,
        command='python tools/evidence/ranking.py --data-root DATA --only x',
        date='2026-01-01T00:00:00+00:00',
        seconds=2.0,
        cpu_seconds=1.5,
        machine=dict(device='a computer', threads=1, python='3.11', torch='2.11'),
        code='0' * 12,
    )
    return dict(common, **figures)


def write(folder, name, /, **figures):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{name}.json').write_text(json.dumps(record(**figures)))


def page_of(results):
    """What report.py makes of a folder of records."""
    import report

    report.main(['--results', str(results)])
    return (results.parent / 'results.md').read_text()
