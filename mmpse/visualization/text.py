"""Tables for a terminal and a log."""

import io
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table


def text_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    title: str | None = None,
    left: int = 1,
    width: int = 100,
) -> str:
    """A table as plain text.

    Args:
        header, rows: Texts.
        title: Stands above it.
        left: So many first columns are text, the others figures, which are aligned right.
        width: Characters in a line; long cells are wrapped.
    """
    table = Table(title=title, title_justify='left')
    for number, name in enumerate(header):
        table.add_column(name, justify='left' if number < left else 'right', overflow='fold')
    for row in rows:
        table.add_row(*row)
    text = io.StringIO()
    Console(file=text, width=width, color_system=None, markup=False).print(table)
    return text.getvalue().rstrip()
