"""A file is there as a whole or not at all."""

import json

import numpy as np
import pytest
import torch

from mmpse.files import check_writable, plain, write_json, written


def test_files_appear_together_at_the_end(tmp_path):
    paths = tmp_path / 'new/a.json', tmp_path / 'new/b.pth'
    with written(*paths) as temporary:
        for path, new in zip(paths, temporary, strict=True):
            assert new.suffix == path.suffix  # some libraries go by it
            new.write_text(path.name)
        assert not any(path.exists() for path in paths)
    assert [path.read_text() for path in paths] == ['a.json', 'b.pth']
    assert sorted((tmp_path / 'new').iterdir()) == list(paths)


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / 'a.json'
    write_json(path, dict(a=1))
    with pytest.raises(RuntimeError):
        with written(path) as (temporary,):
            temporary.write_text('{"a": ')
            raise RuntimeError
    assert json.loads(path.read_text()) == dict(a=1) and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_by_the_name_of_the_file(tmp_path):
    """Which Python does not tell of one that is open."""
    path = tmp_path / 'a.json'
    write_json(path, dict(a=1))
    with pytest.raises(OSError, match=f'No space left on device: .{path}'):
        with written(path), open('/dev/full', 'w') as full:
            full.write('text')
    assert json.loads(path.read_text()) == dict(a=1) and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_known_before(tmp_path):
    check_writable(tmp_path / 'new/metrics.json')
    assert not list((tmp_path / 'new').iterdir())
    (tmp_path / 'file').touch()
    for path in (tmp_path, tmp_path / 'file/metrics.json'):
        with pytest.raises(OSError):
            check_writable(path)
    assert (tmp_path / 'file').read_text() == ''


def test_arrays_and_tensors_become_lists(tmp_path):
    metrics = {
        'accuracy': np.float32(0.5),
        'matrix': torch.tensor([[1, 2], [3, 4]]),
        'recall': [0.1, np.array([0.2, 0.3])],
        'classes': {0: np.int64(7)},
        'best': None,
        'path': tmp_path,
        'zebra': float('nan'),
    }
    assert json.loads(json.dumps(plain(metrics))) == {
        'accuracy': 0.5,
        'matrix': [[1, 2], [3, 4]],
        'recall': [0.1, [0.2, 0.3]],
        'classes': {'0': 7},
        'best': None,
        'path': str(tmp_path),
        'zebra': None,
    }
