# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces of HTML for notebooks and reports, with nothing fetched from anywhere.

Everything that comes from a dump is escaped: a kernel's log may say ``<script>``.
"""

from __future__ import annotations

import base64
import html
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from npdump.pages.colors import COLORS, NAMES, human
from npdump.pages.kinds import PageKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from npdump.pages.kinds import KindCounts

__all__ = ["document", "escape", "facts_table", "kinds_table", "png", "png_tag", "swatch"]


def escape(text: object) -> str:
    """Return text as HTML shows it, control characters made visible.

    Examples
    --------
    >>> escape("<script>")
    '&lt;script&gt;'
    """
    shown = "".join(
        character
        if character.isprintable() or character == "\n"
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in str(text)
    )
    return html.escape(shown)


_STYLE = """
:root { color-scheme: light dark; --ink: #1c2026; --faint: #626a75; --paper: #fdfdfc; --card: #f3f3ef; --line: #dcdcd6;
  --mark: #fff0c2; --red: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --faint: #9aa3ad; --paper: #14171b; --card: #1d2127;
  --line: #343a42; --mark: #4a3c10; --red: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
.reason { color: var(--red); font: 600 1.05rem/1.4 ui-monospace, monospace; margin: 0 0 .6rem; }
.faint { color: var(--faint); }
code, pre, .frames { font: .82rem/1.5 ui-monospace, monospace; }
.frames { margin: 0; padding-left: 1.4rem; }
.card, pre { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; }
.scroll { overflow-x: auto; }
pre { overflow-x: auto; margin: 0; max-height: 34rem; overflow-y: auto; }
mark { background: var(--mark); color: inherit; }
mark.why { color: var(--red); font-weight: 600; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { padding: .2rem .9rem .2rem 0; vertical-align: top; font-variant-numeric: tabular-nums; }
th { font-weight: 500; color: var(--faint); white-space: nowrap; text-align: left; }
.map { width: 100%; height: auto; image-rendering: pixelated; border: 1px solid var(--line); border-radius: .3rem; }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1.2rem; }
.bar { display: flex; height: 1.1rem; min-width: 10rem; border: 1px solid var(--line); }
.bar i { display: block; height: 100%; }
nav a, a { color: inherit; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin-top: .8rem; }
:focus-visible { outline: 3px solid #3fa0dc; outline-offset: 2px; }
"""


def document(title: str, head: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """Return a page that fetches nothing and runs nothing.

    Parameters
    ----------
    title : str
        Is escaped here.
    head : str
        What comes between the title and the links.
    sections : sequence of tuple of three str
        Anchor, heading and body of each; those without a body are left out.
    """
    shown = [(anchor, heading, body) for anchor, heading, body in sections if body]
    links = "".join(f'<a href="#{anchor}">{heading}</a>' for anchor, heading, _ in shown)
    bodies = "".join(f'<section id="{anchor}"><h2>{heading}</h2>{body}</section>' for anchor, heading, body in shown)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<header><h1>{escape(title)}</h1>{head}<nav>{links}</nav></header>"
        f"<main>{bodies}</main></body></html>\n"
    )


def swatch(kind: PageKind) -> str:
    """Return a small square in a kind's colour."""
    style = f"display:inline-block;width:.8em;height:.8em;border:1px solid #8886;background:{COLORS[kind]}"
    return f'<span style="{style}"></span>'


def facts_table(facts: Mapping[str, object]) -> str:
    """Return a table of names and values; what is None is left out."""
    rows = (
        f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in facts.items()
        if value is not None
    )
    return f"<table>{''.join(rows)}</table>"


def kinds_table(counts: KindCounts) -> str:
    """Return a table of the kinds of pages, the most first."""
    totals = sorted(counts.totals().items(), key=lambda item: -item[1])
    n_all = sum(npages for _, npages in totals) or 1
    rows = (
        f'<tr><th scope="row" style="text-align:left">{swatch(kind)} {NAMES[kind]}</th>'
        f'<td style="text-align:right">{human(npages * counts.page_size)}</td>'
        f'<td style="text-align:right">{npages / n_all:.1%}</td><td style="text-align:right">{npages}</td></tr>'
        for kind, npages in totals
    )
    head = "<tr><th></th><th>size</th><th>share</th><th>pages</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def png(kinds: npt.NDArray[np.uint8]) -> bytes:
    """Return a picture of kinds, a point each, as PNG with a palette; ABSENT is transparent.

    Parameters
    ----------
    kinds : ndarray of shape (height, width), dtype uint8

    References
    ----------
    Portable Network Graphics (PNG) Specification, Third Edition.
    """
    height, width = kinds.shape
    colors = (COLORS[kind][i : i + 2] for kind in PageKind for i in (1, 3, 5))
    palette = bytes(int(color, 16) for color in colors)
    lines = np.column_stack((np.zeros(height, np.uint8), kinds)).tobytes()
    chunks = (
        (b"IHDR", struct.pack(">2I5B", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette),
        (b"tRNS", b"\0"),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_tag(kinds: npt.NDArray[np.uint8], words: str, classes: Iterable[str] = ()) -> str:
    """Return an image that is part of the page; ``words`` say what it shows to who does not see it."""
    data = base64.b64encode(png(kinds)).decode("ascii")
    height, width = kinds.shape
    names = escape(" ".join(classes))
    return (
        f'<img class="{names}" alt="{escape(words)}" width="{width}" height="{height}" '
        f'src="data:image/png;base64,{data}">'
    )
