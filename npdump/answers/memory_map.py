# SPDX-License-Identifier: GPL-2.0-or-later
"""`npdump.Dump.pages`: the table of struct pages, with what notebooks do with it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from npdump.arrays import runs_of_numbers, subtract, unique
from npdump.errors import AddressError, FactError
from npdump.pages.html import kinds_table
from npdump.pages.kinds import PageKind
from npdump.pages.mosaic import make_mosaic, stretches
from npdump.pages.policy import PageClass, Trait
from npdump.pages.pyramid import Pyramid, make_pyramid
from npdump.pages.table import PageTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from npdump.arrays import U8
    from npdump.pages.chunk import Chunk

__all__ = ["MemoryMap"]

MAX_FRAME_NPAGES = 1 << 26
"""Page frames that a data frame is made of without a range: 4 GiB of memory for it, some 256 GiB of dump."""

CATEGORIES = {
    "kind": [kind.name for kind in PageKind],
    "page_class": [page_class.name for page_class in PageClass],
}


class MemoryMap(PageTable):
    """The memory map of a dump as a table of struct pages; see `npdump.pages.table.PageTable`.

    Called with page frames, it returns what the pages hold.
    """

    def __call__(self, pfns: npt.ArrayLike) -> U8:
        """Return the contents of pages.

        Parameters
        ----------
        pfns : array_like of int, shape (n,)
            Page frames, in any order; one may be named more than once.

        Returns
        -------
        ndarray of shape (n, page_size), dtype uint8

        Raises
        ------
        AddressError
            If one of them is not in the dump; `LostPage` if it should be, and can not be had.

        Examples
        --------
        >>> with npdump.open(vmcore) as dump:
        ...     dump.pages([0x100, 0x101]).shape
        (2, 4096)
        """
        wanted = np.asarray(pfns, np.int64).ravel()
        ordered = unique(wanted)
        runs = runs_of_numbers(ordered)
        absent = subtract(runs, self._source.data_runs)
        if len(absent):
            raise AddressError(f"page frame {int(absent[0, 0]):#x} isn't in {self._source.path}")
        found = np.empty((len(ordered), self._source.page_size), np.uint8)
        for loss in self._source.gather(runs, found):
            raise loss.error
        return found[np.searchsorted(ordered, wanted)]

    def _columns(self, chunk: Chunk, kinds: U8) -> dict[str, Any]:
        """Return the columns of a frame, of the rows that are memory."""
        rows = np.flatnonzero(chunk.is_ram)
        columns: dict[str, Any] = {
            "pfn": rows + chunk.pfn_start,
            "kind": kinds[rows].astype(np.int8),
            "page_class": chunk.classes[rows].astype(np.int8),
            "order": chunk.orders[rows],
            "is_dumped": chunk.is_dumped[rows],
        }
        columns |= {trait.name.lower(): chunk.has(trait)[rows] for trait in Trait}
        names = [name for name in chunk.records.dtype.names or () if name not in ("order", "dtor")]
        return columns | {name: chunk.column(name)[rows] for name in names}

    def _column_pieces(self, pfn_start: int, pfn_stop: int | None) -> Iterator[dict[str, Any]]:
        """Yield the columns of a frame, piece by piece; of a range without any memory, one piece without rows."""
        is_empty = True
        for chunk, kinds in self.kinds(pfn_start, pfn_stop):
            is_empty = False
            yield self._columns(chunk, kinds)
        if is_empty:
            columns = self._columns(self.read(0, 1), np.zeros(1, np.uint8))
            yield {name: column[:0] for name, column in columns.items()}

    def to_pandas(self, pfn_start: int = 0, pfn_stop: int | None = None) -> Any:
        """Return the table as a data frame, a row for each page frame of memory.

        Parameters
        ----------
        pfn_start, pfn_stop : int, optional
            Page frames; by default all.

        Returns
        -------
        pandas.DataFrame
            ``pfn``, ``kind`` and ``page_class`` (categories), ``order``, ``is_dumped``, a column of bool for each
            `Trait`, and the fields of struct page as they are.

        Raises
        ------
        MissingDependency
            If pandas is not installed.
        ValueError
            If there are more than `MAX_FRAME_NPAGES` page frames: name a range, or use `chunks`.
        """
        from npdump.extras.pandas_frame import frame

        stop = self.max_mapnr if pfn_stop is None else min(pfn_stop, self.max_mapnr)
        if stop - pfn_start > MAX_FRAME_NPAGES:
            raise ValueError(f"{stop - pfn_start} page frames are too many for a data frame: name a range")
        pieces = list(self._column_pieces(pfn_start, stop))
        return frame({name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}, CATEGORIES)

    def to_arrow(self, pfn_start: int = 0, pfn_stop: int | None = None) -> Any:
        """Return the table for Arrow, and so for polars and DuckDB; see `to_pandas`.

        Returns
        -------
        pyarrow.Table

        Raises
        ------
        MissingDependency
            If pyarrow is not installed.
        """
        from npdump.extras.arrow_table import arrow_table

        return arrow_table(self._column_pieces(pfn_start, pfn_stop), CATEGORIES)

    def pyramid(self, n_tiles: int = 1 << 24) -> Pyramid:
        """Return pictures of all memory along Hilbert curves, each half as large as the one before.

        Parameters
        ----------
        n_tiles : int
            Points of the largest one, roughly at most.
        """
        shown = stretches(self._source.ram_runs, 0, self.max_mapnr)
        pieces = ((chunk.pfn_start, kinds) for chunk, kinds in self.kinds())
        return make_pyramid(shown, pieces, n_tiles, self._source.page_size)

    def to_xarray(self) -> Any:
        """Return the counts as arrays with names for their dimensions.

        Returns
        -------
        xarray.Dataset
            ``kept`` by level; ``left_out`` by level and page_class; where the kernel tells them, ``zones`` and
            ``nodes`` by name and kind, and ``free_blocks`` by order and migrate_type. All are numbers of pages, but
            for the last, which are blocks.

        Raises
        ------
        MissingDependency
            If xarray is not installed.
        """
        from npdump.extras.xarray_dataset import dataset

        levels = self.levels()
        columns: dict[str, Any] = {
            "kept": (("level",), levels.kept),
            "left_out": (("level", "page_class"), levels.left_out),
        }
        names: dict[str, Any] = {"level": range(len(levels.kept)), "page_class": CATEGORIES["page_class"]}
        with suppress(FactError):
            free = self.free_area()
            columns["free_blocks"] = (("order", "migrate_type"), free.table())
            names |= {"order": range(free.n_orders), "migrate_type": free.names}
        for part in ("zone", "node"):
            with suppress(FactError):
                counts = self.counts(part)
                columns[f"{part}s"] = ((part, "kind"), counts.counts)
                names |= {part: counts.names, "kind": CATEGORIES["kind"]}
        return dataset(columns, names, {"page_size": self._source.page_size})

    def plot(self, what: str = "map", **options: Any) -> Any:
        """Draw a picture; notebooks show it, and ``figure.savefig(path)`` keeps it.

        Parameters
        ----------
        what : {"map", "zones", "nodes", "free", "levels", "level"}
            ``map``: physical memory, one colour a kind of page. ``zones``, ``nodes``: the kinds of pages of each.
            ``free``: free blocks by size, and fragmentation. ``levels``: what each dump level keeps. ``level``: what
            one of them removes and what stays, side by side.
        **options
            ``title``, ``subtitle``; for the maps ``pfn_start``, ``pfn_stop``, ``n_tiles``, for ``map`` also
            ``layout`` (``hilbert`` or ``rows``), for ``level`` also ``level`` (by default 31).

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ValueError
            If there is no such picture.
        MissingDependency
            If matplotlib is not installed.
        """
        from npdump.extras import plot

        places = {name: options.pop(name) for name in ("n_tiles", "pfn_start", "pfn_stop") if name in options}
        release = self._kernel.facts.release
        options.setdefault("subtitle", f"Linux {release}, {self._kernel.arch.name}" if release else "")
        if what == "map":
            return plot.plot_map(self.mosaic(**places), **options)
        if what in ("zones", "nodes"):
            options.setdefault("title", f"Memory by {what[:-1]}")
            return plot.plot_areas(self.counts(what[:-1]), **options)
        if what == "free":
            return plot.plot_free_area(self.free_area(), self._source.page_size, **options)
        if what == "levels":
            return plot.plot_levels(self.levels(), **options)
        if what == "level":
            level = options.pop("level", 31)
            return plot.plot_level(self.level_mosaics(level, **places), level, **options)
        raise ValueError(f"{what}: there are map, zones, nodes, free, levels and level")

    def level_mosaics(
        self, level: int, n_tiles: int = 1 << 16, pfn_start: int = 0, pfn_stop: int | None = None
    ) -> tuple[Any, Any]:
        """Return the mosaics of what stays at a dump level, and of what goes.

        Parameters
        ----------
        level : int
        n_tiles, pfn_start, pfn_stop
            See `mosaic`.

        Returns
        -------
        tuple of two Mosaic
            Of the same tiles; what is not in one is ABSENT there.
        """
        stop = self.max_mapnr if pfn_stop is None else min(pfn_stop, self.max_mapnr)
        shown = stretches(self._source.ram_runs, pfn_start, stop)
        page_size = self._source.page_size

        def pieces(goes: bool) -> Iterator[tuple[int, U8]]:
            classified = self.classes_at(level, pfn_start, stop)
            for (chunk, kinds), classes in zip(self.kinds(pfn_start, stop), classified, strict=True):
                is_shown = (classes != PageClass.KEPT) == goes
                yield chunk.pfn_start, np.where(is_shown, kinds, np.uint8(PageKind.ABSENT))

        stays, left_out = (make_mosaic(shown, pieces(goes), n_tiles, page_size) for goes in (False, True))
        return stays, left_out

    def _repr_html_(self) -> str:
        return kinds_table(self.counts())
