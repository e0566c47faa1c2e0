"""How a command ends: one line for what its user can mend, a traceback for a bug."""

import io
import os
import sys
import traceback
from collections.abc import Callable

from mmpse.errors import UserError, package_of
from mmpse.files import FULL

CONFIG_ERRORS = KeyError, TypeError, ValueError, RuntimeError  # what MMEngine says of a config


def run_command(main: Callable[[], None], again: str = 'start it again') -> None:
    """Run a command's ``main``; ``again`` is what to do after Ctrl-C.

    Raises:
        SystemExit: With one line in place of an error of :func:`of_user`, and of Ctrl-C.
    """
    try:
        main()
    except KeyboardInterrupt:
        print(f'interrupted; {again}', file=sys.stderr)
        sys.exit(130)  # as shells have it
    except Exception as error:
        if not of_user(error):
            raise
        full = isinstance(error, OSError) and error.errno in FULL
        if full and error.filename is None and (name := _file_being_written(error)):
            error.filename = name
        sys.exit(one_line(error) + (f'; free some, then {again}' if full else ''))


def one_line(error: Exception) -> str:
    """An error as one line of text, with the config in which it came up."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = ' '.join(str(text).split())
    if isinstance(error, FileNotFoundError) and not os.path.isabs(error.filename or ''):
        text += f'; relative paths are looked for in {os.getcwd()}, the current folder'
    config = _config_being_read(error)
    where = '' if config is None or config in text else f', in the config {config}'
    return f'{type(error).__name__}: {text}{where}'


def of_user(error: Exception) -> bool:
    """Whether the user can mend what is wrong.

    That is so of a :class:`mmpse.errors.UserError`; of what the operating system says; of a
    training that diverges or finds no memory; of anything that comes up while a config is read; of
    what MMEngine itself says of a config; and of arguments in it that a constructor does not take.
    All others are bugs, of this project or of another one.
    """
    if isinstance(error, (UserError, OSError, FloatingPointError, MemoryError)):
        return True
    if _config_being_read(error) is not None:
        return True
    return type(error) in CONFIG_ERRORS and package_of(error) == 'mmengine'


def _config_being_read(error: Exception) -> str | None:
    """The config file that MMEngine was reading, a base of another one perhaps."""
    names = [
        str(frame.f_locals['filename'])
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get('__name__') == 'mmengine.config.config'
        and 'filename' in frame.f_locals
    ]
    return names[-1] if names else None


def _file_being_written(error: OSError) -> str | None:
    """The file that was open where an error was raised: writing to one, Python names none."""
    for frame, _ in reversed([*traceback.walk_tb(error.__traceback__)]):
        for value in frame.f_locals.values():
            if isinstance(value, io.IOBase) and isinstance(getattr(value, 'name', None), str):
                return value.name
    return None
