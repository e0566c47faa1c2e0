"""The archive: every judged subnet, on disk before the next one is judged."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SCHEMA = 'mmpse.archive/1'


class ArchiveError(RuntimeError):
    """An archive that is damaged or belongs to another search."""


class Judged(NamedTuple):
    """One judged subnet."""

    generation: int
    origin: str  # 'prior', 'mutation' or 'crossover'
    widths: tuple[int, ...]
    score: float
    resources: dict[str, int]


class Archive:
    """An SQLite file of judged subnets.

    A commit is on disk when :meth:`add` returns, and a process killed in the middle of one loses
    nothing but that subnet; other processes can read at the same time.

    Args:
        path: The file; it is made if missing.
        identity: What scores depend on (search space, checkpoint hash, metric, ...). An archive of
            another identity is refused.

    Raises:
        ArchiveError: If the file is damaged, or of another identity; the message names the keys.
    """

    def __init__(self, path: str | os.PathLike, identity: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(self.path)
            check = self._db.execute('PRAGMA integrity_check').fetchone()[0]
            if check != 'ok':
                raise sqlite3.DatabaseError(check)
            with self._db:
                self._db.execute('CREATE TABLE IF NOT EXISTS identity (key PRIMARY KEY, value)')
                self._db.execute(
                    'CREATE TABLE IF NOT EXISTS judged (id INTEGER PRIMARY KEY, generation, '
                    'origin, widths UNIQUE, score, resources)'
                )
            stored = dict(self._db.execute('SELECT key, value FROM identity'))
        except sqlite3.DatabaseError as error:
            reason = ' '.join(str(error).split())[:200]
            raise ArchiveError(
                f'the archive {self.path} cannot be used ({reason}); restore it, or move it away '
                'to start the search again'
            ) from error
        given = {
            key: json.dumps(value, sort_keys=True)
            for key, value in {'schema': SCHEMA, **identity}.items()
        }
        if not stored:
            with self._db:
                self._db.executemany('INSERT INTO identity VALUES (?, ?)', given.items())
        elif stored != given:
            differing = sorted(k for k in stored | given if stored.get(k) != given.get(k))
            details = '; '.join(
                f'{k}: {stored.get(k)} there, {given.get(k)} now' for k in differing
            )
            raise ArchiveError(
                f'the archive {self.path} is of another search ({details}); choose another work_dir'
            )

    def add(self, judged: Judged) -> None:
        """Keep a judged subnet.

        Raises:
            sqlite3.Error: If it cannot be written (disk full); nothing is half written then.
        """
        row = (
            judged.generation,
            judged.origin,
            json.dumps(judged.widths),
            judged.score,
            json.dumps(judged.resources),
        )
        with self._db:
            self._db.execute(
                'INSERT INTO judged (generation, origin, widths, score, resources) '
                'VALUES (?, ?, ?, ?, ?)',
                row,
            )

    def get(self, widths: Sequence[int]) -> float | None:
        """Score of a subnet, if it was judged."""
        row = self._db.execute(
            'SELECT score FROM judged WHERE widths = ?', (json.dumps(tuple(widths)),)
        ).fetchone()
        return None if row is None else row[0]

    def __len__(self) -> int:
        return self._db.execute('SELECT COUNT(*) FROM judged').fetchone()[0]


def read_archive(path: str | os.PathLike) -> list[Judged]:
    """All judged subnets of an archive file in the order of judging, without changing it."""
    with sqlite3.connect(f'file:{Path(path)}?mode=ro', uri=True) as db:
        rows = db.execute(
            'SELECT generation, origin, widths, score, resources FROM judged ORDER BY id'
        ).fetchall()
    return [
        Judged(generation, origin, tuple(json.loads(widths)), score, json.loads(resources))
        for generation, origin, widths, score, resources in rows
    ]
