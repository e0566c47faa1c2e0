"""The errors that a user can mend."""


class UserError(ValueError):
    """What is wrong with what a user gave, in one sentence that says what to do.

    Every error that mmpse raises for its user is one. A command ends with its one line; any other
    error is a bug, and keeps its traceback (:func:`mmpse.command.run_command`).
    """
