"""The folder of a pruning, and what is done in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmpse.errors import UserError
from mmpse.files import write_json


class PruneError(UserError):
    """A pruning that cannot begin, or that came to nothing."""


LOG = 'prune.log'
BEGINNING = 'settings.json', 'latency.json'  # what is there before a step has a result


class Steps:
    """The folder of a pruning: what is done in it is not done again.

    It is made by :meth:`claim`. One in which nothing came of an earlier pruning counts as empty.

    Args:
        resume: Whether it may hold something already.

    Raises:
        PruneError: If it holds something and is not to be resumed.
    """

    def __init__(self, out: Path, resume: bool) -> None:
        self.out = out
        self.folder = out / 'steps'
        if not (resume or self._blank()):
            raise PruneError(
                f'{out} is not empty; give --resume to go on with what it holds, or another folder '
                'with -o'
            )

    def _blank(self) -> bool:
        """Whether there is nothing but the beginning of a pruning."""
        if self.out.exists() and not self.out.is_dir():
            return False
        own = {self.out / LOG, self.folder, *(self.folder / name for name in BEGINNING)}
        return own.issuperset(self.out.glob('*')) and own.issuperset(self.folder.glob('*'))

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise a PruneError if the folder is of a pruning that was asked for something else."""
        path = self.folder / BEGINNING[0]
        if self._blank() or not path.exists():
            return
        old, settings = json.loads(path.read_text()), json.loads(json.dumps(settings))
        for key in settings:
            if old.get(key) != settings[key]:
                was, now = (str(s.get(key))[:80] for s in (old, settings))
                raise PruneError(
                    f'{self.out} holds a pruning with {key}={was}, not {now}; give another '
                    'folder with -o, or the same arguments'
                )

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Make the folder, and note what the pruning was asked for; :meth:`check` it before."""
        settings = json.loads(json.dumps(settings))
        path = self.folder / BEGINNING[0]
        if not path.exists() or json.loads(path.read_text()) != settings:
            for name in BEGINNING:  # of a pruning that came to nothing
                (self.folder / name).unlink(missing_ok=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, settings)

    def once(self, name: str, call: Callable[[], Any]) -> Any:
        """What ``call`` returned when it was first done, as JSON has it."""
        path = self.folder / f'{name}.json'
        if not path.exists():
            write_json(path, call())
        return json.loads(path.read_text())
