"""HTML: one page that needs no other file, no script and no network."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape as escape_markup
from pathlib import Path
from typing import Any

from detector.errors import printable

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1240px; padding: 1rem; }
h1 { font-size: 1.6rem; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; border-bottom: 2px solid var(--line); padding-bottom: .25rem; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .25rem; }
p { max-width: 75ch; margin: .5rem 0; }
nav a { display: inline-block; margin-right: 1rem; }
.metrics { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0; }
.metrics div { background: var(--soft); border-radius: .5rem; padding: .5rem 1rem; min-width: 7rem; }
.metrics b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem 1rem .25rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; }
td.number, th.number { text-align: right; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
figure { margin: 0; }
img { background: #fff; border-radius: .4rem; display: block; height: auto; max-width: 100%; }
figcaption { font-size: .85rem; margin: .25rem 0 .5rem; overflow-wrap: anywhere; }
.key { display: inline-block; margin-right: 1rem; }
.key i { border-radius: .15rem; display: inline-block; height: .9em; margin-right: .4em; vertical-align: -.1em; width: .9em; }
summary { cursor: pointer; margin: .5rem 0; }
"""
KINDS = {".png": "png", ".jpg": "jpeg"}


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """The document of `sections` (heading as plain text, content as HTML)."""
    links = "".join(f'<a href="#s{i}">{escape(heading)}</a> ' for i, (heading, _) in enumerate(sections))
    content = "".join(
        f'<section><h2 id="s{i}">{escape(heading)}</h2>{html}</section>' for i, (heading, html) in enumerate(sections)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1><nav>{links}</nav>\n{content}\n</body></html>\n"
    )


def escape(text: str) -> str:
    """The text as HTML that shows it."""
    return escape_markup(printable(text))


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def metrics(values: Iterable[tuple[str, str]]) -> str:
    """Large numbers with their names."""
    return f'<div class="metrics">{"".join(f"<div><b>{escape(v)}</b>{escape(n)}</div>" for n, v in values)}</div>'


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A table of plain texts; its last `numbers` columns are set to the right."""
    first = len(headings) - numbers

    def cells(row: Sequence[str], tag: str) -> str:
        classes = ["" if i < first else ' class="number"' for i in range(len(row))]
        return "".join(f"<{tag}{name}>{escape(text)}</{tag}>" for text, name in zip(row, classes, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{cells(headings, "th")}</tr>{body}</table></div>'


def number(value: float | None, sign: str = "") -> str:
    """Three decimals; `sign` is "+" where positive ones have one, too."""
    return "–" if value is None else f"{value:{sign}.3f}"


def interval(values: Mapping[str, Any]) -> str:
    """`low` and `high` as text."""
    return "–" if values["low"] is None else f"{number(values['low'])} to {number(values['high'])}"


def folded(title: str, html: str) -> str:
    """Content that is hidden until asked for."""
    return f"<details><summary>{escape(title)}</summary>{html}</details>"


def image(path: Path, caption: str) -> str:
    """The image file, embedded."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    source = f"data:image/{KINDS[path.suffix]};base64,{data}"
    return f'<figure><img src="{source}" alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'


def grid(items: Iterable[str]) -> str:
    """Beside each other where there is room."""
    return f'<div class="grid">{"".join(items)}</div>'


def color_keys(entries: Iterable[tuple[tuple[int, int, int], str]]) -> str:
    """A legend: RGB colors with their names."""
    keys = (
        f'<span class="key"><i style="background:rgb({r},{g},{b})"></i>{escape(name)}</span>'
        for (r, g, b), name in entries
    )
    return f"<p>{''.join(keys)}</p>"
