"""A file is there as a whole or not at all."""

import json

import pytest

from mmpse.files import write_json, written


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
