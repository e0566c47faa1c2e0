"""A subnet: one width per unit, and the JSON file that hands it from step to step."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmpse.errors import UserError
from mmpse.files import write_json

SCHEMA = 'mmpse.subnet/1'


class SubnetError(UserError):
    """A subnet, or the file that holds it, that cannot be used."""


class Subnet(Mapping):
    """An immutable, hashable mapping ``unit name -> channels``.

    Two subnets are equal if their widths are; what else a file says of a subnet is carried along.

    Args:
        widths: Channels of every unit.
        backbone: Type and layers of the model, and the grid of its widths, as
            :attr:`SearchSpace.backbone` has them.
        resources: What the subnet costs, e.g. ``{'flops': 3e8, 'params': 2e6}``; ``'latency'`` in
            microseconds.
        source: Where it came from: config, checkpoint hash, score.
        path: The file it was read from; errors name it.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        backbone: Mapping[str, Any],
        resources: Mapping[str, Any] | None = None,
        source: Mapping[str, Any] | None = None,
        path: str | None = None,
    ) -> None:
        self._widths = dict(widths)
        self.backbone = dict(backbone)
        self.resources = dict(resources or {})
        self.source = dict(source or {})
        self.path = path

    def __getitem__(self, unit: str) -> int:
        return self._widths[unit]

    def __iter__(self) -> Iterator[str]:
        return iter(self._widths)

    def __len__(self) -> int:
        return len(self._widths)

    def __hash__(self) -> int:
        return hash(frozenset(self._widths.items()))

    def __repr__(self) -> str:
        widths = ', '.join(f'{unit}={width}' for unit, width in self.items())
        return f'Subnet({widths})'

    @property
    def grid(self) -> dict[str, Any]:
        """The ``ratios``, ``divisor`` and ``grids`` of its :class:`SearchSpace`."""
        return {'grids': None, **self.backbone['grid']}

    def to_dict(self) -> dict[str, Any]:
        """The content of the subnet's JSON file."""
        return {
            'schema': SCHEMA,
            'backbone': self.backbone,
            'widths': self._widths,
            'resources': self.resources,
            'source': self.source,
        }

    def save(self, path: str | os.PathLike) -> Path:
        """Write the JSON file; it is never half written."""
        write_json(path, self.to_dict())
        return Path(path)

    @classmethod
    def from_dict(cls, content: Any, path: str | None = None) -> Subnet:
        """Read the content of a subnet file.

        Raises:
            SubnetError: If a key is missing or of another kind than expected.
        """
        where = f'subnet file {path}' if path else 'subnet'
        if not isinstance(content, Mapping):
            raise SubnetError(
                f'{where}: expected a JSON object with the keys schema, backbone and widths, got '
                f'{type(content).__name__}'
            )
        if content.get('schema') != SCHEMA:
            raise SubnetError(
                f'{where}: key "schema" is {content.get("schema")!r}, expected {SCHEMA!r}; give a '
                'file written by a search or by mmpse prune'
            )
        for key in ('backbone', 'widths'):
            if not isinstance(content.get(key), Mapping) or not content[key]:
                raise SubnetError(
                    f'{where}: key "{key}" must be a non-empty JSON object, got '
                    f'{content.get(key)!r}'
                )
        if not isinstance(content['backbone'].get('grid'), Mapping):
            raise SubnetError(
                f'{where}: key "backbone.grid" must be a JSON object with the keys ratios and '
                f'divisor, got {content["backbone"].get("grid")!r}'
            )
        for unit, width in content['widths'].items():
            if isinstance(width, bool) or not isinstance(width, int) or width < 1:
                raise SubnetError(
                    f'{where}: widths["{unit}"] must be a positive whole number, got {width!r}'
                )
        return cls(
            content['widths'],
            content['backbone'],
            content.get('resources'),
            content.get('source'),
            path,
        )

    @classmethod
    def load(cls, subnet: str | os.PathLike | Mapping) -> Subnet:
        """A subnet from its file, from the file's content, or (unchanged) from a subnet.

        Raises:
            SubnetError: If the file is missing, truncated or damaged.
        """
        if isinstance(subnet, Subnet):
            return subnet
        if isinstance(subnet, Mapping):
            return cls.from_dict(subnet)
        try:
            text = Path(subnet).read_text(encoding='utf-8')
        except (OSError, UnicodeDecodeError) as error:
            reason = 'it is no text' if isinstance(error, UnicodeDecodeError) else error.strerror
            raise SubnetError(
                f'cannot read the subnet file {subnet}: {reason}; a search writes one, and so does '
                'mmpse prune'
            ) from error
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise SubnetError(
                f'subnet file {subnet} is not whole JSON (line {error.lineno}: {error.msg}); it '
                'was cut off or edited by hand: write it again with the search or mmpse prune'
            ) from error
        return cls.from_dict(content, str(subnet))
