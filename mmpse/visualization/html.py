"""A report as one HTML file, figures embedded."""

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
.note { color: #555; }
.bars { font-size: .8rem; width: 100%; }
.bars td { padding: .1rem .5rem; border: 0; white-space: nowrap; }
.bars .bar { width: 60%; background: #eee; padding: 0; }
.bars i { display: block; height: .9rem; background: #4878a8; }
td.text, th.text { text-align: left; }
.pictures { width: 100%; table-layout: fixed; }
.pictures th, .pictures td { text-align: center; border: 0; }
.pictures img { width: 100%; max-height: 20rem; object-fit: contain; }
.pictures figure { margin: 0; }
.pictures figure img { max-height: 8rem; }
pre { background: #f4f4f4; padding: .8rem; overflow-x: auto; font-size: .8rem; }
"""


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """An HTML table of texts; so many first columns are aligned left, the others right."""

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="text"'] * left + [''] * len(cells)
        cells = [f'<{tag}{k}>{html.escape(c)}</{tag}>' for k, c in zip(kinds, cells, strict=False)]
        return f'<tr>{"".join(cells)}</tr>'

    return f'<table>{line("th", header)}{"".join(line("td", row) for row in rows)}</table>'


def picture(figure: Figure, description: str) -> str:
    """A figure as an embedded PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=120)
    return embedded(buffer.getvalue(), description)


def embedded(png: bytes, description: str) -> str:
    """The bytes of a PNG file as a picture of the page."""
    data = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(description)}">'


def bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars: name, length from 0 to 1, and text of each."""
    lines = (
        f'<tr><td>{html.escape(name)}</td><td class="bar"><i style="width:{share:.1%}"></i></td>'
        f'<td>{html.escape(text)}</td></tr>'
        for name, share, text in rows
    )
    return f'<table class="bars">{"".join(lines)}</table>'


def paragraph(text: str) -> str:
    """Text, plain."""
    return f'<p class="note">{html.escape(text)}</p>'


def write_page(path: str | os.PathLike, title: str, sections: Sequence[tuple[str, str]]) -> None:
    """Write a page; ``sections`` are the heading (plain text) and the body (HTML) of each."""
    body = ''.join(f'<h2>{html.escape(heading)}</h2>{content}' for heading, content in sections)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<title>{html.escape(title)}</title><style>{STYLE}</style></head>'
        f'<body><h1>{html.escape(title)}</h1>{body}</body></html>\n'
    )
    with written(path) as (temporary,):
        temporary.write_text(page, encoding='utf-8')
