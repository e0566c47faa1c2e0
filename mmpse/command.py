"""How a command ends: one line for what its user can mend, a traceback for a bug."""

from __future__ import annotations

import dis
import errno
import itertools
import re
import sys
import traceback
from collections.abc import Callable
from types import FrameType

RAISE = dis.opmap['RAISE_VARARGS']
OWN = '__main__', 'mmpse'
UPSTREAM = 'mmengine'  # it reads configs, registries and checkpoints
ARGUMENTS = re.compile(r'unexpected keyword argument|missing \d+ required|multiple values for')


def run_command(main: Callable[[], None], again: str = 'start it again') -> None:
    """Run a command's ``main``.

    Args:
        main: The command.
        again: What to do after Ctrl-C.

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
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        sys.exit(one_line(error) + (f'; free some, then {again}' if full else ''))


def one_line(error: Exception) -> str:
    """An error as one line of text, with the config in which it came up."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = ' '.join(str(text).split())
    config = _config_being_read(_frames(error))
    where = '' if config is None or config in text else f', in the config {config}'
    return f'{type(error).__name__}: {text}{where}'


def of_user(error: Exception) -> bool:
    """Whether the user can mend what is wrong: a file, a setting, a config.

    That is so of every error that this project or MMEngine raises by a statement, and not because
    something went wrong in them; of the operating system's; of whatever comes up while a config is
    read; and of arguments in it that what is built does not take. All others are bugs.
    """
    frames = _frames(error)
    if isinstance(error, OSError) or _config_being_read(frames) is not None:
        return True
    if isinstance(error, TypeError) and ARGUMENTS.search(str(error)):
        return _building(frames)
    innermost = error.__traceback__
    while innermost.tb_next is not None:
        innermost = innermost.tb_next
    return (
        not isinstance(error, (AssertionError, NotImplementedError))
        and _module(frames[-1]).partition('.')[0] in (*OWN, UPSTREAM)
        and frames[-1].f_code.co_code[innermost.tb_lasti] == RAISE
    )


def _frames(error: Exception) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _config_being_read(frames: list[FrameType]) -> str | None:
    """The config file that MMEngine was reading, a base of another one perhaps."""
    names = [
        str(frame.f_locals['filename'])
        for frame in frames
        if _module(frame) == 'mmengine.config.config' and 'filename' in frame.f_locals
    ]
    return names[-1] if names else None


def _building(frames: list[FrameType]) -> bool:
    """Whether the innermost call is that of a constructor, or its base's, by a registry."""
    outer = itertools.dropwhile(lambda frame: frame.f_code.co_name == '__init__', frames[::-1])
    return _module(next(outer)) == 'mmengine.registry.build_functions'


def _module(frame: FrameType) -> str:
    return frame.f_globals.get('__name__', '')
