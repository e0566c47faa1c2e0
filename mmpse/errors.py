"""The errors that a user can mend, and whose fault another one is."""

import re
import traceback

ARGUMENTS = re.compile(r'unexpected keyword argument|missing \d+ required|multiple values for')


class UserError(ValueError):
    """What is wrong with what a user gave, in one sentence that says what to do.

    Every error that mmpse raises for its user is one. A command ends with its one line; any other
    error is a bug, and keeps its traceback (:func:`mmpse.command.run_command`).
    """


def is_bug(error: BaseException) -> bool:
    """Whether an error is a fault of mmpse itself, whose traceback must not be lost.

    What the operating system says is none, such as that a file is not there.
    """
    return not isinstance(error, (UserError, OSError)) and package_of(error) == 'mmpse'


def package_of(error: BaseException) -> str:
    """The package whose code raised an error; of arguments that a constructor does not take, the
    one whose code gave them."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, TypeError) and ARGUMENTS.search(str(error)):
        # of a constructor, or of its base's that it passes them on to
        frames = [frame for frame in frames if frame.f_code.co_name != '__init__']
    return frames[-1].f_globals.get('__name__', '').partition('.')[0]
