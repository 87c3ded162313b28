# SPDX-License-Identifier: GPL-2.0-or-later
"""The map of memory as a widget of Jupyter: pan, zoom, and a word about the page under the pointer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npdump.extras import require
from npdump.pages.colors import COLORS, NAMES, human
from npdump.pages.kinds import PageKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from npdump.pages.pyramid import Pyramid

__all__ = ["MAX_VIEW_NPOINTS", "map_widget"]

MAX_VIEW_NPOINTS = 1 << 23
"""Points of a view: more than the largest screens have."""


def map_widget(pyramid: Pyramid, explain: Callable[[int], str], title: str) -> Any:
    """Return the widget.

    Parameters
    ----------
    pyramid : Pyramid
    explain : callable
        Says what a page frame is, in HTML.
    title : str

    Returns
    -------
    anywidget.AnyWidget

    Raises
    ------
    MissingDependency
    """
    base = pyramid.images[0]
    most_first = sorted(PageKind, key=lambda kind: -int(pyramid.counts[kind]))
    legend = [
        [NAMES[kind], COLORS[kind], human(int(pyramid.counts[kind]) * pyramid.page_size)]
        for kind in most_first
        if pyramid.counts[kind] and kind != PageKind.ABSENT
    ]
    widget = _widget_class()(
        title=title,
        colors=[COLORS[kind] for kind in PageKind],
        legend=legend,
        size=[base.shape[1], base.shape[0], len(pyramid.images)],
    )
    widget.on_msg(_Answers(pyramid, explain))
    return widget


class _Answers:
    """What the page asks: a view of a picture, or what is at a point."""

    def __init__(self, pyramid: Pyramid, explain: Callable[[int], str]) -> None:
        self._pyramid, self._explain = pyramid, explain

    def __call__(self, widget: Any, content: dict[str, Any], buffers: Any) -> None:
        if content.get("kind") == "view":
            level, x, y, width, height = (int(content[name]) for name in ("level", "x", "y", "width", "height"))
            if 0 <= level < len(self._pyramid.images) and 0 < width * height <= MAX_VIEW_NPOINTS:
                widget.send(content, [self._pyramid.view(level, x, y, width, height).tobytes()])
        elif content.get("kind") == "page":
            pfn = self._pyramid.pfn_at(int(content["x"]), int(content["y"]))
            widget.send({**content, "html": "" if pfn is None else self._explain(pfn)})


@cache
def _widget_class() -> Any:
    """Make the class when the library is there: traits are part of its definition."""
    anywidget = require("anywidget", "anywidget", "widgets")
    traitlets = require("traitlets", "traitlets", "widgets")

    class MemoryMapWidget(anywidget.AnyWidget):  # type: ignore[name-defined,misc]
        _esm = (Path(__file__).parent / "widget.js").read_text()
        title = traitlets.Unicode().tag(sync=True)
        colors = traitlets.List().tag(sync=True)
        legend = traitlets.List().tag(sync=True)
        size = traitlets.List().tag(sync=True)

    return MemoryMapWidget
