import sqlite3

import pytest

from mmpse.engine import Archive, ArchiveError, Judged, read_archive

IDENTITY = dict(checkpoint='abc', metric='top1')


def judged(k: int) -> Judged:
    return Judged(k // 10, 'prior', (8, 16 + k), 0.1 + k / 3, dict(flops=100 + k))


def test_what_is_added_is_read_back_exactly(tmp_path):
    archive = Archive(tmp_path / 'a.db', IDENTITY)
    rows = [judged(k) for k in range(20)]
    for row in rows:
        archive.add(row)
        assert read_archive(archive.path)[-1] == row  # by another connection, at once
    assert read_archive(archive.path) == rows and len(archive) == 20
    assert archive.get((8, 19)) == rows[3].score
    assert archive.get((8, 999)) is None
    assert read_archive(Archive(tmp_path / 'a.db', IDENTITY).path) == rows


def test_a_subnet_cannot_be_added_twice(tmp_path):
    archive = Archive(tmp_path / 'a.db', IDENTITY)
    archive.add(judged(0))
    with pytest.raises(sqlite3.IntegrityError):
        archive.add(judged(0))
    assert len(archive) == 1


def test_archive_of_another_search_is_refused(tmp_path):
    Archive(tmp_path / 'a.db', IDENTITY)
    with pytest.raises(ArchiveError, match='of another search .checkpoint: "abc" there, "x" now'):
        Archive(tmp_path / 'a.db', dict(IDENTITY, checkpoint='x'))


@pytest.mark.parametrize('where', ['head', 'middle', 'tail'])
def test_damaged_archive_is_refused(tmp_path, where):
    path = tmp_path / 'a.db'
    archive = Archive(path, IDENTITY)
    for k in range(2000):
        archive.add(judged(k)) if k < 50 else None
    with archive._db:
        archive._db.executemany(
            'INSERT INTO judged (widths, score) VALUES (?, ?)', [(str(k), k) for k in range(5000)]
        )
    archive._db.close()
    content = bytearray(path.read_bytes())
    start = dict(head=0, middle=len(content) // 2, tail=len(content) - 6000)[where]
    content[start : start + 4096] = b'\xff' * 4096
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match='cannot be used .* restore it, or move it away'):
        Archive(path, IDENTITY)
