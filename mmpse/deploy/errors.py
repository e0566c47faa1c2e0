"""What is wrong with a model that is exported, or with a file."""

from mmpse.errors import UserError


class ExportError(UserError):
    """A model that cannot be exported, or that comes out differently."""
