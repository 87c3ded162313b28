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
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

    from npdump.pages.kinds import KindCounts

__all__ = ["escape", "facts_table", "kinds_table", "png", "png_tag", "swatch"]


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
