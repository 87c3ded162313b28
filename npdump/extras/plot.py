# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures of physical memory, by matplotlib.

Each function returns a figure that is not shown and not kept: notebooks draw what a cell returns.
"""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from npdump.extras import require
from npdump.pages.colors import COLORS, NAMES, human
from npdump.pages.kinds import PageKind
from npdump.pages.mosaic import hilbert_image, rows_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from npdump.pages.buddy import FreeArea
    from npdump.pages.kinds import KindCounts
    from npdump.pages.levels import LevelCounts
    from npdump.pages.mosaic import Mosaic

__all__ = ["plot_areas", "plot_free_area", "plot_level", "plot_levels", "plot_map", "save"]

_INK, _FAINT = "#20242a", "#6b7078"
_STYLE = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _FAINT,
    "axes.edgecolor": "#c8ccd2",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "svg.hashsalt": "npdump",  # the same picture is the same file
}


def _matplotlib() -> tuple[Any, Any]:
    """Return matplotlib, and the module that makes figures without a window."""
    matplotlib = require("matplotlib", "matplotlib", "pictures")
    return matplotlib, require("matplotlib.figure", "matplotlib", "pictures")


@cache
def _picture_class() -> Any:
    """Return the class of our figures: such that notebooks draw without being told to."""
    _, figures = _matplotlib()
    base: Any = figures.Figure

    class Picture(base):  # type: ignore[misc]  # what is of type Any
        """A figure that shows itself in a notebook."""

        def _repr_png_(self) -> bytes:
            data = io.BytesIO()
            self.savefig(data, format="png", dpi=110)
            return data.getvalue()

    return Picture


def _figure(width: float, height: float) -> Any:
    return _picture_class()(figsize=(width, height), layout=None)


def save(figure: Any, path: str, dpi: int = 160) -> None:
    """Write a figure to a file; the end of its name says in which format."""
    matplotlib, _ = _matplotlib()
    metadata = {"Date": None} if path.endswith(".svg") else {}
    with matplotlib.rc_context(_STYLE):
        figure.savefig(path, dpi=dpi, metadata=metadata)


def _colors(kinds: npt.NDArray[np.uint8], colors: dict[PageKind, str] = COLORS) -> npt.NDArray[np.uint8]:
    """Return RGB of each; shape (…, 3)."""
    palette = np.array([[int(colors[kind][i : i + 2], 16) for i in (1, 3, 5)] for kind in PageKind], np.uint8)
    return palette[kinds]


def _legend(figure: Any, axes: Any, totals: dict[PageKind, int], page_size: int) -> None:
    """Name the colours, with sizes and shares, the largest first."""
    n_all = sum(totals.values()) or 1
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(totals) + 0.5, -0.5)
    for row, (kind, npages) in enumerate(totals.items()):
        share = npages / n_all
        axes.barh(row, 0.24 * share / max(max(totals.values()) / n_all, 1e-9), left=0.0, height=0.56,
                  color=COLORS[kind], edgecolor="#00000030", linewidth=0.6)  # fmt: skip
        axes.text(0.29, row, NAMES[kind], va="center", fontsize=9.5, color=_INK)
        axes.text(0.85, row, human(npages * page_size), va="center", ha="right", fontsize=9.5, color=_FAINT)
        axes.text(1.0, row, _percent(share), va="center", ha="right", fontsize=9.5, color=_FAINT)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "< 1%"


def plot_map(
    mosaic: Mosaic, *, layout: str = "hilbert", title: str = "Physical memory", subtitle: str = "", n_rows: int = 64
) -> Any:
    """Draw physical memory as a map, one colour a kind of page.

    Parameters
    ----------
    mosaic : Mosaic
    layout : {"hilbert", "rows"}
        Along Hilbert curves, where what is near in memory is near in the picture, or line by line.
    title, subtitle : str
    n_rows : int
        Rows of the second layout.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no such layout.
    MissingDependency
        If matplotlib is not installed.
    """
    matplotlib, _ = _matplotlib()
    if layout not in ("hilbert", "rows"):
        raise ValueError(f"{layout}: there are hilbert and rows")
    image = hilbert_image(mosaic) if layout == "hilbert" else rows_image(mosaic, n_rows)
    ratio = image.shape[1] / image.shape[0] if layout == "hilbert" else 2.0
    totals = mosaic.totals()
    with matplotlib.rc_context(_STYLE):
        map_height = min(9.6 / ratio, 6.0)
        map_width = map_height * ratio
        legend_height = 0.34 * len(totals)
        left = 0.45 if layout == "hilbert" else 1.0
        width, height = left + map_width + 4.1, max(map_height, legend_height) + 1.75
        top = height - 1.3
        figure = _figure(width, height)
        axes = figure.add_axes((left / width, (top - map_height) / height, map_width / width, map_height / height))
        axes.imshow(_colors(image), interpolation="nearest", aspect="auto" if layout == "rows" else "equal")
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xticks([])
        axes.set_yticks([])
        _mark_ends(axes, mosaic, image, layout)
        legend = figure.add_axes(
            ((left + map_width + 0.35) / width, (top - legend_height) / height, 3.4 / width, legend_height / height)
        )
        _legend(figure, legend, totals, mosaic.page_size)
        _title(figure, width, height, title, subtitle)
        tile = mosaic.tile_npages * mosaic.page_size
        along = "a Hilbert curve" if layout == "hilbert" else "rows"
        figure.text(0.45 / width, 0.17 / height, f"a point is {human(tile)}; addresses ascend along {along}; "
                    "holes without memory are left out", fontsize=8, color=_FAINT)  # fmt: skip
    return figure


def _title(figure: Any, width: float, height: float, title: str, subtitle: str) -> None:
    figure.text(0.45 / width, 1 - 0.42 / height, title, fontsize=15, fontweight="bold", color=_INK, va="center")
    figure.text(0.45 / width, 1 - 0.76 / height, subtitle, fontsize=9.5, color=_FAINT, va="center")


def _mark_ends(axes: Any, mosaic: Mosaic, image: npt.NDArray[np.uint8], layout: str) -> None:
    """Write the addresses where squares begin."""
    if layout != "hilbert":
        n_rows, width = image.shape
        step = max(n_rows // 8, 1)
        rows = [row for row in range(0, n_rows, step) if mosaic.pfn_of(row * width) is not None]
        axes.set_yticks(rows)
        addresses = [(mosaic.pfn_of(row * width) or 0) * mosaic.page_size for row in rows]
        axes.set_yticklabels([_address(address) for address in addresses], fontsize=7.5)
        axes.tick_params(length=0, pad=-2)
        axes.tick_params(axis="y", direction="in", pad=4)
        return
    side = image.shape[0]
    for left in range(0, image.shape[1], side):
        pfn = mosaic.pfn_of(left // side * side * side)
        if pfn is not None:
            axes.text(left, -side * 0.012, _address(pfn * mosaic.page_size), fontsize=8, color=_FAINT, va="bottom")
        if left:
            axes.axvline(left - 0.5, color="white", linewidth=1.2)


def _address(address: int) -> str:
    return f"{address:#x}" if address % (1 << 20) else f"{human(address)}" if address else "0"


def plot_areas(counts: KindCounts, *, title: str = "Memory by zone", subtitle: str = "") -> Any:
    """Draw the kinds of pages of each part of memory as bars; see `KindCounts`."""
    matplotlib, _ = _matplotlib()
    with matplotlib.rc_context(_STYLE):
        n = len(counts.names)
        width, height = 9.6, 0.46 * max(n, 1) + 2.3
        figure = _figure(width, height)
        axes = figure.add_axes(
            (1.8 / width, 0.95 / height, (width - 2.2) / width, (height - (2.0 if subtitle else 1.65)) / height)
        )
        left = np.zeros(n)
        scale, unit = _unit(float(counts.counts.sum(axis=1).max(initial=1)) * counts.page_size)
        for kind in counts.totals():
            values = counts.counts[:, kind] * counts.page_size / scale
            axes.barh(range(n), values, left=left, color=COLORS[kind], label=NAMES[kind], height=0.66,
                      edgecolor="white", linewidth=0.4)  # fmt: skip
            left += values
        axes.set_yticks(range(n), counts.names)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(unit)
        figure.legend(loc="lower left", bbox_to_anchor=(0.0, 0.0), ncols=6, frameon=False, fontsize=8,
                      handlelength=1.0, columnspacing=1.2)  # fmt: skip
        _title(figure, width, height, title, subtitle)
    return figure


def _unit(nbytes: float) -> tuple[int, str]:
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB")):
        if nbytes >= 1 << shift:
            return 1 << shift, unit
    return 1 << 10, "KiB"


_TYPE_COLORS = ("#095472", "#f2a72e", "#18885b", "#c56512", "#8a12a5", "#54a5eb", "#b0aea4")


def plot_free_area(free: FreeArea, page_size: int, *, title: str = "Free memory", subtitle: str = "") -> Any:
    """Draw free memory by the size of its blocks, and how much of it an allocation of each order can not use."""
    matplotlib, _ = _matplotlib()
    with matplotlib.rc_context(_STYLE):
        width, height = 9.6, 4.4
        figure = _figure(width, height)
        axes = figure.add_axes((0.75 / width, 0.7 / height, 4.9 / width, (height - 1.75) / height))
        blocks = free.table()
        sizes = (np.int64(1) << np.arange(free.n_orders)) * page_size
        nbytes = blocks * sizes[:, None]
        scale, unit = _unit(float(nbytes.sum(axis=1).max(initial=1)))
        bottom = np.zeros(free.n_orders)
        for i, name in enumerate(free.names):
            if not nbytes[:, i].any():
                continue
            color = _TYPE_COLORS[min(i, len(_TYPE_COLORS) - 1)]
            axes.bar(range(free.n_orders), nbytes[:, i] / scale, bottom=bottom, color=color, label=name, width=0.74)
            bottom += nbytes[:, i] / scale
        axes.set_xticks(range(free.n_orders), [_short(size) for size in sizes.tolist()], fontsize=7.5)
        axes.set_ylabel(f"free, {unit}")
        axes.set_xlabel("size of the blocks")
        axes.tick_params(length=0)
        if blocks.any():
            axes.legend(frameon=False, fontsize=8.5, title="migrate type", title_fontsize=8.5)
        right = figure.add_axes((6.35 / width, 0.7 / height, 2.9 / width, (height - 1.75) / height))
        unusable = free.unusable()
        right.fill_between(range(free.n_orders), unusable, step="mid", color="#c56512", alpha=0.85, linewidth=0)
        right.set_ylim(0, 1)
        right.set_xlim(-0.5, free.n_orders - 0.5)
        right.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        right.set_xticks(range(0, free.n_orders, 2), [_short(size) for size in sizes.tolist()[::2]], fontsize=7.5)
        right.set_xlabel("allocation of")
        right.tick_params(length=0)
        right.set_title("not usable for it", fontsize=9.5, color=_FAINT, loc="left")
        _title(figure, width, height, title, subtitle)
    return figure


def _short(nbytes: int) -> str:
    return f"{nbytes >> 20}M" if nbytes >= 1 << 20 else f"{nbytes >> 10}K"


_BITS = ((16, "free"), (8, "user"), (4, "private cache"), (2, "cache"))


def plot_levels(levels: LevelCounts, *, title: str = "What each dump level keeps", subtitle: str = "") -> Any:
    """Draw what stays and what goes at each dump level; those that differ in zero pages alone are one bar."""
    matplotlib, _ = _matplotlib()
    with matplotlib.rc_context(_STYLE):
        width, height = 9.6, 5.6
        figure = _figure(width, height)
        axes = figure.add_axes(
            (1.9 / width, 0.95 / height, (width - 2.4) / width, (height - (2.0 if subtitle else 1.65)) / height)
        )
        shown = list(range(0, 32, 2))
        scale, unit = _unit(float(levels.n_dumped) * levels.page_size)
        factor = levels.page_size / scale
        _level_bars(axes, levels, shown, factor)
        for row, level in enumerate(shown):
            text = human(int(levels.kept[level]) * levels.page_size)
            axes.text(float(levels.kept[level]) * factor, row, f"{text} ", ha="right", va="center", color="white",
                      fontsize=8)  # fmt: skip
        axes.set_yticks(range(len(shown)), [f"{level}, {level + 1}" for level in shown])
        axes.set_ylabel("dump level")
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"{unit} of memory")
        figure.legend(loc="lower left", ncols=6, frameon=False, fontsize=8, handlelength=1.2)
        _title(figure, width, height, title, subtitle)
    return figure


def _level_bars(axes: Any, levels: LevelCounts, shown: list[int], factor: float) -> None:
    """Draw a bar for each level: what stays, and behind it what goes, class by class."""
    from npdump.pages.policy import PageClass

    of_class = {
        PageClass.CACHE: PageKind.CACHE,
        PageClass.CACHE_PRIVATE: PageKind.CACHE_PRIVATE,
        PageClass.USER: PageKind.USER,
        PageClass.FREE: PageKind.FREE,
        PageClass.OFFLINE: PageKind.OFFLINE,
        PageClass.HWPOISON: PageKind.HWPOISON,
        PageClass.UNACCEPTED: PageKind.UNACCEPTED,
    }
    left = levels.kept[shown] * factor
    axes.barh(range(len(shown)), left, color=COLORS[PageKind.KERNEL], label="stays", height=0.72)
    for page_class, kind in of_class.items():
        values = levels.left_out[shown, page_class] * factor
        if values.any():
            axes.barh(range(len(shown)), values, left=left, color=COLORS[kind], label=f"goes: {NAMES[kind]}",
                      height=0.72, alpha=0.55, hatch="////", edgecolor="white", linewidth=0)  # fmt: skip
        left = left + values


def plot_level(mosaics: Sequence[Mosaic], level: int, *, title: str = "", subtitle: str = "") -> Any:
    """Draw what a level removes and what stays, side by side.

    Parameters
    ----------
    mosaics : sequence of two Mosaic
        Of the pages that stay, and of those that go, tile by tile.
    level : int
    """
    matplotlib, _ = _matplotlib()
    images = [hilbert_image(mosaic) for mosaic in mosaics]
    ratio = images[0].shape[1] / images[0].shape[0]
    with matplotlib.rc_context(_STYLE):
        one_width = min(max(3.4 * ratio, 4.6), 7.0)
        one_height = one_width / ratio
        width, height = 2 * one_width + 1.3, one_height + 2.6
        figure = _figure(width, height)
        for i, (image, mosaic, words) in enumerate(zip(images, mosaics, ("stays", "goes"), strict=True)):
            axes = figure.add_axes(
                ((0.45 + i * (one_width + 0.4)) / width, 0.95 / height, one_width / width, one_height / height)
            )
            axes.imshow(_colors(image, COLORS | {PageKind.ABSENT: "#f7f8fa"}), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
            npages = sum(mosaic.totals().values())
            axes.set_title(f"{words}: {human(npages * mosaic.page_size)}", loc="left", fontsize=11)
        patches = require("matplotlib.patches", "matplotlib", "pictures")
        kinds = sorted({kind for mosaic in mosaics for kind in mosaic.totals()})
        handles = [patches.Patch(facecolor=COLORS[kind], edgecolor="#00000030", label=NAMES[kind]) for kind in kinds]
        figure.legend(handles=handles, loc="lower left", ncols=min(len(kinds), max(int(width / 1.7), 2)),
                      frameon=False, fontsize=8, handlelength=1.0)  # fmt: skip
        _title(figure, width, height, title or f"What dump level {level} leaves out", subtitle)
    return figure
