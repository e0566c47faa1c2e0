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


class Steps:
    """The folder of a pruning: what is done in it is not done again.

    Args:
        out: The folder.
        resume: Whether it may hold something already.

    Raises:
        PruneError: If it holds something and is not to be resumed.
    """

    def __init__(self, out: Path, resume: bool) -> None:
        self.out = out
        self.folder = out / 'steps'
        if out.is_dir() and any(out.iterdir()) and not resume:
            raise PruneError(
                f'{out} is not empty; give --resume to go on with what it holds, or another folder '
                'with -o'
            )
        self.folder.mkdir(parents=True, exist_ok=True)

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Note what the pruning was asked for.

        Raises:
            PruneError: If the folder is one of another pruning.
        """
        path = self.folder / 'settings.json'
        settings = json.loads(json.dumps(settings))
        if path.exists():
            old = json.loads(path.read_text())
            for key in settings:
                if old.get(key) != settings[key]:
                    was, now = (str(s.get(key))[:80] for s in (old, settings))
                    raise PruneError(
                        f'{self.out} holds a pruning with {key}={was}, not {now}; give another '
                        'folder with -o, or the same arguments'
                    )
        else:
            write_json(path, settings)

    def once(self, name: str, call: Callable[[], Any]) -> Any:
        """What ``call`` returned when it was first done, as JSON has it."""
        path = self.folder / f'{name}.json'
        if not path.exists():
            write_json(path, call())
        return self.read(name)

    def read(self, name: str) -> Any:
        """What a step that is done returned, as JSON has it."""
        return json.loads((self.folder / f'{name}.json').read_text())
