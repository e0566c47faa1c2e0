"""The archive: every judged subnet, on disk before the next one is judged."""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mmpse.differences import differences
from mmpse.errors import UserError

SCHEMA = 'mmpse.archive/5'
COLUMNS = 'search, generation, origin, widths, score, loss, resources, parts'
JSON = 'widths', 'resources', 'parts'  # columns that hold it


class ArchiveError(UserError):
    """An archive that is damaged, cannot be written, or belongs to another supernet."""


class Judged(NamedTuple):
    """One judged subnet."""

    search: int  # number of the search in the archive, from 1
    generation: int
    origin: str  # how the search came to it: 'fullnet', 'uniform', 'prior', 'mutation', ...
    widths: tuple[int, ...]
    score: float  # -inf if it is not a number
    loss: float | None  # mean negative log-likelihood of the labels, of classifiers
    resources: dict[str, float]
    parts: tuple[float, ...] | None = None  # of the loss or score, see :class:`Verdict`


def ranking_key(row: Judged) -> tuple:
    """Sorting key of subnets, best first: by score; equals by loss, then by cost."""
    loss = float('inf') if row.loss is None else row.loss
    return (-row.score, loss, *row.resources.values(), row.widths)


class Archive:
    """An SQLite file of the judged subnets of one supernet, by one search or by several.

    A commit is on disk when :meth:`add` returns, and a process killed in the middle of one loses
    nothing but those subnets; other processes can read at the same time.

    Args:
        path: The file; it is made if missing.
        identity: What scores depend on (search space, checkpoint hash, metric, ...). An archive of
            another identity is refused.

    Raises:
        ArchiveError: If the file is damaged, or of another identity; the message names the keys
            and both values.
    """

    def __init__(self, path: str | os.PathLike, identity: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(self.path, timeout=60)  # readers may be at it
            check = self._db.execute('PRAGMA integrity_check').fetchone()[0]
            if check != 'ok':
                raise sqlite3.DatabaseError(check)
            with self._db:
                self._db.execute('CREATE TABLE IF NOT EXISTS identity (key PRIMARY KEY, value)')
                _check_schema(self._db, self.path)
                self._db.execute(
                    'CREATE TABLE IF NOT EXISTS searches '
                    '(id INTEGER PRIMARY KEY, settings UNIQUE, known)'
                )
                self._db.execute(
                    'CREATE TABLE IF NOT EXISTS judged (id INTEGER PRIMARY KEY, search, '
                    'generation, origin, widths UNIQUE, score, loss, resources, parts)'
                )
                # that of an earlier version has none
                self._db.execute(
                    'CREATE TABLE IF NOT EXISTS chosen (search INTEGER PRIMARY KEY, widths)'
                )
            stored = dict(self._db.execute('SELECT key, value FROM identity'))
        except sqlite3.OperationalError as error:
            raise _unwritable(self.path, error) from error
        except sqlite3.DatabaseError as error:
            reason = ' '.join(str(error).split())[:200]
            raise ArchiveError(
                f'the archive {self.path} cannot be used ({reason}); restore it, or move it away '
                'to start the search again'
            ) from error
        given = {
            key: json.dumps(value, sort_keys=True, default=str)
            for key, value in {'schema': SCHEMA, **identity}.items()
        }
        if not stored:
            with self._writing() as db:
                db.executemany('INSERT INTO identity VALUES (?, ?)', given.items())
        elif stored != given:
            there, now = (
                {key: json.loads(value) for key, value in content.items()}
                for content in (stored, given)
            )
            raise ArchiveError(
                f'the archive {self.path} is of another supernet, or judged in another way '
                f'({differences(there, now)}); choose another work_dir or archive'
            )

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is on disk afterwards, or nothing."""
        try:
            with self._db:
                yield self._db
        except sqlite3.OperationalError as error:
            raise _unwritable(self.path, error) from error

    def begin(self, settings: Mapping[str, Any]) -> tuple[int, list[Judged]]:
        """Begin a search, or go on with the one of these settings.

        Returns:
            The search's number, and what was judged before it first began.
        """
        key = json.dumps(settings, sort_keys=True, default=str)
        with self._writing() as db:
            db.execute(
                'INSERT OR IGNORE INTO searches (settings, known) '
                'SELECT ?, coalesce(max(id), 0) FROM judged',
                (key,),
            )
        number, known = self._db.execute(
            'SELECT id, known FROM searches WHERE settings = ?', (key,)
        ).fetchone()
        return number, _select(self._db, 'WHERE id <= ?', known)

    def add(self, judged: Sequence[Judged], completed: Sequence[Judged] = ()) -> None:
        """Keep judged subnets: all of them, or none if that fails.

        Args:
            judged: Subnets that the archive lacks.
            completed: Subnets that it has without their ``parts``.

        Raises:
            ArchiveError: If they cannot be written (disk full).
            sqlite3.IntegrityError: If one of ``judged`` is in the archive.
        """
        rows = [
            row._replace(**{key: json.dumps(getattr(row, key)) for key in JSON}) for row in judged
        ]
        parts = [(json.dumps(row.parts), json.dumps(row.widths)) for row in completed]
        marks = ', '.join('?' * len(Judged._fields))
        with self._writing() as db:
            db.executemany(f'INSERT INTO judged ({COLUMNS}) VALUES ({marks})', rows)
            db.executemany('UPDATE judged SET parts = ? WHERE widths = ?', parts)

    def choose(self, search: int, widths: Sequence[int]) -> None:
        """Keep which subnet a search takes for its best one so far; see :func:`read_chosen`."""
        with self._writing() as db:
            row = search, json.dumps(widths)
            db.execute('INSERT OR REPLACE INTO chosen (search, widths) VALUES (?, ?)', row)

    def rows(self) -> list[Judged]:
        """All judged subnets in the order of judging."""
        return _select(self._db)


def _unwritable(path: Path, error: sqlite3.OperationalError) -> ArchiveError:
    return ArchiveError(
        f'the archive {path} cannot be written ({error}); what it holds is kept: mend that (free '
        'some space?) and go on with --resume'
    )


def _select(db: sqlite3.Connection, where: str = '', *parameters: Any) -> list[Judged]:
    rows = db.execute(f'SELECT {COLUMNS} FROM judged {where} ORDER BY id', parameters)
    result = []
    for row in map(Judged._make, rows):
        row = row._replace(**{key: json.loads(getattr(row, key)) for key in JSON})
        parts = None if row.parts is None else tuple(row.parts)
        result.append(row._replace(widths=tuple(row.widths), parts=parts))
    return result


def _check_schema(db: sqlite3.Connection, path: str | os.PathLike) -> None:
    stored = db.execute("SELECT value FROM identity WHERE key = 'schema'").fetchone()
    if stored is not None and stored != (json.dumps(SCHEMA),):
        raise ArchiveError(
            f'the archive {path} has the format {stored[0]} of another version of mmpse, which '
            f'this one ({SCHEMA}) does not read; choose another work_dir or archive and search '
            'again'
        )


def read_archive(path: str | os.PathLike) -> list[Judged]:
    """The judged subnets of an archive file in the order of judging; a search may be writing it.

    Raises:
        ArchiveError: If it is missing, damaged or no archive.
    """
    with _reading(path) as db:
        return _select(db)


def read_searches(path: str | os.PathLike) -> dict[int, dict[str, Any]]:
    """The searches of an archive file: number -> settings, the ``budget`` among them.

    Raises:
        ArchiveError: If it is missing, damaged or no archive.
    """
    with _reading(path) as db:
        return {
            n: json.loads(v) for n, v in db.execute('SELECT id, settings FROM searches ORDER BY id')
        }


def read_chosen(path: str | os.PathLike) -> dict[int, tuple[int, ...]]:
    """Number of a search in an archive file -> widths of the subnet that it takes for the best.

    A search lacks one until its references are judged, and if an earlier version made the file.

    Raises:
        ArchiveError: If it is missing, damaged or no archive.
    """
    with _reading(path) as db:
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'chosen'").fetchone() is None:
            return {}
        return {n: tuple(json.loads(v)) for n, v in db.execute('SELECT search, widths FROM chosen')}


def read_identity(path: str | os.PathLike) -> dict[str, Any]:
    """What the scores of an archive file depend on: space, units, metric, ...

    Raises:
        ArchiveError: If it is missing, damaged or no archive.
    """
    with _reading(path) as db:
        return {k: json.loads(v) for k, v in db.execute('SELECT key, value FROM identity')}


@contextmanager
def _reading(path: str | os.PathLike) -> Iterator[sqlite3.Connection]:
    try:
        # not `ro`: what a killed search was writing could not be rolled back
        with closing(sqlite3.connect(f'{Path(path).absolute().as_uri()}?mode=rw', uri=True)) as db:
            _check_schema(db, path)
            yield db
    except sqlite3.DatabaseError as error:
        raise ArchiveError(
            f'cannot read the archive {path} ({error}); give the archive.db that a search wrote'
        ) from error
