import sqlite3
from contextlib import closing

import pytest

from mmpse.search.archive import (
    Archive,
    ArchiveError,
    Judged,
    ranking_key,
    read_archive,
    read_chosen,
)

IDENTITY = dict(checkpoint='abc', metric='top1')


def judged(k: int) -> Judged:
    cost = dict(flops=100 + k)
    return Judged(1, k // 10, 'prior', (8, 16 + k), 0.1 + k / 3, 1 / (k + 3), cost)


def test_what_is_added_is_read_back_exactly(tmp_path):
    archive = Archive(tmp_path / 'a.db', IDENTITY)
    rows = [judged(k) for k in range(20)]
    for row in rows:
        archive.add([row])
        assert read_archive(archive.path)[-1] == row  # by another connection, at once
    assert read_archive(archive.path) == rows
    assert archive.rows() == rows
    assert read_archive(Archive(tmp_path / 'a.db', IDENTITY).path) == rows


def test_a_subnet_cannot_be_added_twice(tmp_path):
    archive = Archive(tmp_path / 'a.db', IDENTITY)
    archive.add([judged(0)])
    with pytest.raises(sqlite3.IntegrityError):
        archive.add([judged(1), judged(0)])
    assert archive.rows() == [judged(0)]  # none of them, if not all


def test_parts_are_kept_and_added(tmp_path):
    archive = Archive(tmp_path / 'a.db', IDENTITY)
    whole, lacking = judged(0)._replace(parts=(0.25, 1 / 3)), judged(1)
    archive.add([whole, lacking])
    completed = lacking._replace(parts=(1.5,))
    archive.add([judged(2)], completed=[completed])
    assert archive.rows() == [whole, completed, judged(2)]


def test_an_archive_that_cannot_be_made_is_not_said_to_be_damaged(tmp_path):
    (tmp_path / 'a.db').mkdir()
    with pytest.raises(ArchiveError, match=r'a\.db cannot be written \(unable to open .* --resume'):
        Archive(tmp_path / 'a.db', IDENTITY)


def test_archive_of_another_version_is_refused(tmp_path):
    path = Archive(tmp_path / 'a.db', IDENTITY).path
    with sqlite3.connect(path) as db:
        db.execute("""UPDATE identity SET value = '"mmpse.archive/2"' WHERE key = 'schema'""")
    for open_it in (read_archive, lambda path: Archive(path, IDENTITY)):
        with pytest.raises(ArchiveError, match='format "mmpse.archive/2" of another version'):
            open_it(path)


def test_equal_scores_are_ranked_by_loss_then_cost():
    first = Judged(1, 0, 'prior', (8, 8), 90.0, 0.2, dict(flops=100))
    order = [
        first._replace(score=90.5, loss=0.9),
        first._replace(loss=0.1, resources=dict(flops=200)),
        first,
        first._replace(resources=dict(flops=101)),
        first._replace(score=float('-inf'), loss=None),
    ]
    assert sorted(reversed(order), key=ranking_key) == order


def test_a_search_knows_what_was_judged_before_it_began(tmp_path):
    archive = Archive(tmp_path / 'a.db', IDENTITY)
    assert archive.begin(dict(budget='300M')) == (1, [])
    archive.add([judged(0), judged(1)])
    assert archive.begin(dict(budget='200M')) == (2, [judged(0), judged(1)])
    archive.add([judged(2)._replace(search=2)])
    archive = Archive(tmp_path / 'a.db', IDENTITY)  # killed and resumed
    assert archive.begin(dict(budget='200M')) == (2, [judged(0), judged(1)])
    assert archive.begin(dict(budget='300M')) == (1, [])


def test_what_a_search_chose_is_kept(tmp_path):
    path = Archive(tmp_path / 'a.db', IDENTITY).path
    assert read_chosen(path) == {}
    with closing(sqlite3.connect(path)) as db:
        db.execute('DROP TABLE chosen')  # as one of an earlier version
    assert read_chosen(path) == {}
    archive = Archive(path, IDENTITY)
    for search, row in ((1, judged(0)), (2, judged(1)), (1, judged(2))):
        archive.choose(search, row.widths)
    assert read_chosen(path) == {1: judged(2).widths, 2: judged(1).widths}


def test_archive_of_another_search_is_refused(tmp_path):
    Archive(tmp_path / 'a.db', IDENTITY)
    with pytest.raises(ArchiveError, match='of another supernet.*checkpoint: "abc" there, "x" now'):
        Archive(tmp_path / 'a.db', dict(IDENTITY, checkpoint='x'))


@pytest.mark.parametrize('where', ['head', 'middle', 'tail', 'cut off'])
def test_damaged_archive_is_refused(tmp_path, where):
    path = tmp_path / 'a.db'
    archive = Archive(path, IDENTITY)
    for k in range(2000):
        archive.add([judged(k)]) if k < 50 else None
    with archive._db:
        archive._db.executemany(
            'INSERT INTO judged (widths, score) VALUES (?, ?)', [(str(k), k) for k in range(5000)]
        )
    archive._db.close()
    content = bytearray(path.read_bytes())
    start = dict(head=0, middle=len(content) // 2, tail=len(content) - 6000).get(where, 0)
    content[start : start + 4096] = b'\xff' * 4096
    path.write_bytes(content[: len(content) // 2] if where == 'cut off' else content)
    with pytest.raises(ArchiveError, match='cannot be used .* restore it, or move it away'):
        Archive(path, IDENTITY)


def test_full_disk_loses_nothing(tmp_path):
    archive = Archive(tmp_path / 'a.db', IDENTITY)
    (pages,) = archive._db.execute('PRAGMA page_count').fetchone()
    archive._db.execute(f'PRAGMA max_page_count = {pages + 2}')  # what SQLite has for a full disk
    kept = []
    with pytest.raises(ArchiveError, match='cannot be written .*full.* go on with --resume'):
        for k in range(1000):
            archive.add([judged(k)])
            kept.append(judged(k))
    assert len(kept) > 10 and archive.rows() == kept
    archive = Archive(tmp_path / 'a.db', IDENTITY)  # there is space again
    archive.add([judged(1000)])
    assert read_archive(archive.path) == [*kept, judged(1000)]


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / 'a.db').write_text('generation,score\n' * 100)
    for path in (tmp_path / 'a.db', tmp_path / 'missing.db'):
        with pytest.raises(ArchiveError, match='give the archive.db that a search wrote'):
            read_archive(path)
