"""A user's config, read; and a config that inherits from it, written."""

import keyword
import os
import tempfile
import textwrap
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from mmpse.files import written
from mmpse.openmmlab import compat
from mmpse.openmmlab.errors import ConfigError, name_of, one_line

from .building import merged
from .source import WIDTH, plain, python_source

# import name -> what pip calls it
DISTRIBUTIONS = dict(
    mmcv='onedl-mmcv',
    mmdet='onedl-mmdetection',
    mmengine='onedl-mmengine',
    mmpretrain='onedl-mmpretrain',
    mmseg='onedl-mmsegmentation',
)


# Reading


def load_config(config: str | os.PathLike | Config) -> Config:
    """A config by its file or name, as one that inherits from it sees it.

    Args:
        config: A config file (old-style, or new-style with ``read_base``), a name such as
            ``'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'``, or a Config, which is returned.

    Raises:
        ConfigError: If there is no such file, a package or module that it needs is missing, it
            cannot be read, or it has no model.
    """
    if not isinstance(config, Config):
        config = _read(base_name(config))
    try:
        model = config.get('model')
        _resolve(model)
    except ImportError as error:  # of a new-style config, whose classes are imported only now
        raise ConfigError(f'{name_of(config)}: {_missing(error, config.filename)}') from error
    if not isinstance(model, Mapping) or 'type' not in model:
        raise ConfigError(
            f'{name_of(config)} has no model; give the config of a classifier, detector or '
            'segmentor'
        )
    return config


def base_name(config: str | os.PathLike, folder: Path | None = None) -> str:
    """How an old-style config in ``folder`` names another one as its base.

    A file of an installed package is named as ``'mmdet::...'``, so that it is found wherever that
    is; any other by its path from ``folder``, or by its whole path without one.

    Raises:
        ConfigError: If there is no such file.
    """
    config = os.fspath(config)
    if '::' in config:
        return config
    path = Path(config).expanduser().resolve()
    if not path.is_file():
        raise ConfigError(f'there is no config {config}')
    for root in path.parents:
        if root.parts[-2:] == ('.mim', 'configs') and _is_package(root.parents[1]):
            return f'{root.parts[-3]}::{path.relative_to(root).as_posix()}'
    return str(path) if folder is None else Path(os.path.relpath(path, folder.resolve())).as_posix()


def _is_package(folder: Path) -> bool:
    """Whether a folder is the one that ``import`` finds by its name."""
    if not (folder / '__init__.py').is_file():
        return False
    spec = find_spec(folder.name)
    return spec is not None and spec.origin is not None and Path(spec.origin).parent == folder


def _read(name: str) -> Config:
    try:
        path = compat.config_path(name) if '::' in name else name
        if compat.is_new_style(path):
            return Config.fromfile(path)
        with tempfile.TemporaryDirectory() as folder:
            heir = Path(folder, 'heir.py')
            heir.write_text(f'_base_ = {name!r}\n', encoding='utf-8')
            cfg = Config.fromfile(heir, import_custom_modules=False)
        cfg = Config(cfg.to_dict(), cfg.text, path, cfg.env_variables)
        if cfg.get('custom_imports'):
            import_modules_from_strings(**cfg.custom_imports)
        return cfg
    except ImportError as error:
        raise ConfigError(f'{name}: {_missing(error, name)}') from error
    except Exception as error:  # mmengine raises whatever the file does
        reason = f'{type(error).__name__}: {one_line(error)}'
        raise ConfigError(f'cannot read the config {name} ({reason})') from error


def _missing(error: ImportError, config: str | None) -> str:
    """What a config needs that cannot be imported, and what to do."""
    # mmengine raises another error, without the name of the module
    cause = error.__context__ if isinstance(error.__context__, ImportError) else error
    package = config.partition('::')[0] if config and '::' in config else None
    module = cause.name or (package if package and find_spec(package) is None else None)
    if module is None or not isinstance(cause, ModuleNotFoundError):
        return f'cannot import what it names ({one_line(cause)})'
    root = module.partition('.')[0]
    folders = [Path.cwd(), *([Path(config).resolve().parent] if config and not package else [])]
    beside = [f for f in folders if (f / f'{root}.py').exists() or (f / root).is_dir()]
    if root in DISTRIBUTIONS:
        remedy = f'pip install {DISTRIBUTIONS[root]}'
    elif beside:
        remedy = f'set PYTHONPATH={beside[0]}'
    else:
        remedy = 'install it, or set PYTHONPATH to the folder that it is in'
    return f'there is no module {module}, which it needs: {remedy}'


def _resolve(value: Any) -> None:
    """Import the classes that a new-style config names."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            _resolve(item)


# Writing


def importing(cfg: Config) -> dict[str, Any]:
    """The change by which a config imports mmpse, too, whatever it imports so far."""
    old = cfg.get('custom_imports') or {}
    imports = old.get('imports') or []
    imports = [imports] if isinstance(imports, str) else list(imports)
    if 'mmpse' not in imports:
        imports.append('mmpse')
    failing = bool(old.get('allow_failed_imports'))
    return dict(custom_imports=dict(imports=imports, allow_failed_imports=failing))


def write_config(
    path: str | os.PathLike,
    base: str | os.PathLike | Config,
    changes: Mapping[str, Any],
    comment: str,
) -> Config:
    """Write a config that is another one with changes.

    It inherits from the other one and holds the changes alone: with ``_base_``, or from a new-style
    one with ``read_base``. A Config object that is not what its file says, and a new-style file
    whose path Python cannot import (``faster-rcnn.py``), are written down as a whole.

    Args:
        path: The file to write; it is there as a whole or not at all.
        base: The other config, as :func:`load_config` takes it.
        changes: As a config that inherits would have them: dicts are merged into the other one's
            unless they have ``_delete_=True``, and everything else takes the place of the old.
        comment: What the config is, for its first lines.

    Raises:
        ConfigError: If the other config cannot be read, a change cannot be written as Python, or
            the new file would be the old one.
    """
    path, old = Path(path), load_config(base)
    if old.filename and path.exists() and path.samefile(old.filename):
        raise ConfigError(f'{path} is the config to inherit from; give another file to write')
    try:
        content = plain(old.to_dict())
        changes = _for_heir(plain(changes), content)
    except ValueError as error:
        raise ConfigError(f'cannot write {path}: {error}') from error
    expected = merged(content, changes).to_dict()
    text = _heir(base, old, changes, path.parent) or _assignments(expected)
    title = textwrap.fill(comment, WIDTH, initial_indent='# ', subsequent_indent='# ')
    with written(path) as (temporary,):
        temporary.write_text(f'{title}\n{text}', encoding='utf-8')
        found = Config.fromfile(temporary).to_dict()
        if differing := [k for k in found | expected if found.get(k) != expected.get(k)]:
            raise ConfigError(
                f'{path} would read back differently ({", ".join(differing)}); please report this '
                'with the config that it inherits from'
            )
    return Config.fromfile(path)


def _for_heir(changes: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """Changes with ``_delete_`` where mmengine needs it, and nowhere else, where it would stay."""
    result = {}
    for key, value in changes.items():
        if isinstance(value, Mapping):
            afresh = value.get('_delete_') or not isinstance(old.get(key), Mapping)
            value = _for_heir(value, {} if afresh else old[key])
            if afresh and key in old:
                value = {'_delete_': True, **value}
        if key != '_delete_':
            result[key] = value
    return result


def _heir(
    base: str | os.PathLike | Config, old: Config, changes: Mapping[str, Any], folder: Path
) -> str | None:
    """The text of a config in ``folder`` that inherits from another one; None: it cannot."""
    if isinstance(base, Config):
        base = old.filename
        if not (base and Path(base).is_file() and load_config(base).to_dict() == old.to_dict()):
            return None  # it was made or changed in memory
    if not compat.is_new_style(old.filename):
        return f'_base_ = {base_name(base, folder)!r}\n{_assignments(changes)}'
    module = _module_name(Path(old.filename).resolve(), folder.resolve())
    if module is None:
        return None
    start = 'from mmengine.config import read_base\n\nwith read_base():\n    '
    return f'{start}from {module} import *  # noqa: F403\n\n' + ''.join(
        f'{key}.merge({python_source(value)})  # noqa: F405\n'
        if isinstance(value, Mapping) and '_delete_' not in value and key in old
        else _assignments(_for_heir({key: value}, {}))
        for key, value in changes.items()
    )


def _assignments(values: Mapping[str, Any]) -> str:
    return ''.join(f'{key} = {python_source(value)}\n' for key, value in values.items())


def _module_name(path: Path, folder: Path) -> str | None:
    """How a new-style config in ``folder`` imports another one; None: no name fits its path."""
    top = next((p for p in path.parents if _is_package(p)), None)
    if top is not None and top.name in DISTRIBUTIONS:
        start, parts = '', path.relative_to(top.parent).with_suffix('').parts
    else:
        parts = Path(os.path.relpath(path.with_suffix(''), folder)).parts
        up = sum(part == '..' for part in parts)
        start, parts = '.' * (up + 1), parts[up:]
    if all(part.isidentifier() and not keyword.iskeyword(part) for part in parts):
        return start + '.'.join(parts)
    return None
