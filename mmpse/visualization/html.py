"""A report as one HTML file, figures embedded."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence

from matplotlib.figure import Figure

from mmpse.files import written

STYLE = """
body { font-family: system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid #ccc; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
pre { background: #f4f4f4; padding: .8rem; overflow-x: auto; font-size: .8rem; }
"""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of texts."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return '<tr>' + ''.join(f'<{tag}>{html.escape(c)}</{tag}>' for c in cells) + '</tr>'

    return f'<table>{line("th", header)}{"".join(line("td", row) for row in rows)}</table>'


def picture(figure: Figure, description: str) -> str:
    """A figure as an embedded PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=120)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(description)}">'


def write_page(path: str | os.PathLike, title: str, sections: Sequence[tuple[str, str]]) -> None:
    """Write a page.

    Args:
        path: The file; it is replaced in one go.
        title: Title, plain text.
        sections: Heading (plain text) and body (HTML) of every section.
    """
    body = ''.join(f'<h2>{html.escape(heading)}</h2>{content}' for heading, content in sections)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<title>{html.escape(title)}</title><style>{STYLE}</style></head>'
        f'<body><h1>{html.escape(title)}</h1>{body}</body></html>\n'
    )
    with written(path) as (temporary,):
        temporary.write_text(page, encoding='utf-8')
