"""What is wrong with what a user gave, in one sentence."""

from collections.abc import Iterable

from mmpse.errors import UserError

LENGTH = 300  # characters of an error of others


class ConfigError(UserError):
    """A config that cannot be read, built or written."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read, or is another model's."""


def one_line(error: BaseException) -> str:
    """The message of an error in one line, its beginning if it is long."""
    text = ' '.join(str(error).split()) or type(error).__name__
    return text if len(text) <= LENGTH else f'{text[:LENGTH]} ...'


def listed(names: Iterable[str], most: int = 6) -> str:
    """The names, comma-separated; of many the first ones."""
    names = list(names)
    rest = len(names) - most
    return ', '.join(names[:most]) + (f' and {rest} more' if rest > 0 else '')


def name_of(config) -> str:
    """What an error calls a config: its file."""
    return config.filename or 'the config'
