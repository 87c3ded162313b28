# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of two dumps, side by side, in one pass over physical memory."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npdump.arrays import I64, U8, Bool, Runs, count, expand, join, mask_of, runs_of
from npdump.compare._headers import is_kdump
from npdump.encode.batches import is_zero
from npdump.pages.policy import PageClass, Trait
from npdump.storage.file import page_buffer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.observer import Observer
    from npdump.pages.table import PageTable
    from npdump.sources import Source

__all__ = ["Found", "PageExample", "PageSet", "compare_pages", "cut"]

_CHUNK_NPAGES = 1 << 15
_BATCH_NBYTES = 1 << 20
_N_AHEAD = 3
"""Batches that are read before they are compared."""

MAX_RUNS = 1000
"""Stretches of differing pages that are named; the rest is counted."""

MAX_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class PageExample:
    """One page that differs, and why it may.

    Attributes
    ----------
    pfn : int
    how : str
        How it differs, in words; empty if it is in one dump only.
    page_class : str or None
        What it is left out as, ``KEPT`` if it never is; None where no struct page tells.
    traits : tuple of str
        What its struct page makes of it.
    fields : dict of str to int
        The struct page's fields that made it so.
    """

    pfn: int
    how: str
    page_class: str | None = None
    traits: tuple[str, ...] = ()
    fields: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PageSet:
    """Pages that differ in one way.

    Attributes
    ----------
    n_pages : int
    runs : tuple of (int, int)
        The first page frames, as half-open ranges; at most `MAX_RUNS` of these.
    by_class : dict of str to int
        Pages by what they are left out as.
    examples : tuple of PageExample
        The first few.
    """

    n_pages: int = 0
    runs: tuple[tuple[int, int], ...] = ()
    by_class: dict[str, int] = field(default_factory=dict)
    examples: tuple[PageExample, ...] = ()


class Found(NamedTuple):
    """See `npdump.compare.Comparison`."""

    n_memory: tuple[int, int]
    n_kept: tuple[int, int]
    n_same: int
    n_implied: int
    memory: PageSet
    lost: PageSet
    extra: PageSet
    changed: PageSet
    stored: PageSet | None


class _Collector:
    """Gathers a `PageSet` chunk by chunk."""

    def __init__(self, table: PageTable | None) -> None:
        self._table = table
        self._n_pages = 0
        self._runs: list[Runs] = []
        self._n_runs = 0
        self._by_class = np.zeros(len(PageClass), np.int64)
        self._examples: list[PageExample] = []

    def add(self, pfns: I64, how: dict[int, str]) -> None:
        """Take page frames, ascending; ``how`` says in words how some of them differ."""
        if not len(pfns):
            return
        self._n_pages += len(pfns)
        if self._n_runs < MAX_RUNS:
            self._runs.append(_runs(pfns))
            self._n_runs += len(self._runs[-1])
        chunk = None
        first, stop = int(pfns[0]), int(pfns[-1]) + 1
        if self._table is not None and first < self._table.max_mapnr:
            chunk = self._table.read(first, min(stop, self._table.max_mapnr))
            inside = pfns[pfns < chunk.pfn_stop] - first
            self._by_class += np.bincount(chunk.classes[inside], minlength=len(PageClass))
        for pfn in pfns[: MAX_EXAMPLES - len(self._examples)].tolist():
            self._examples.append(_example(pfn, how.get(pfn, ""), chunk))

    def collected(self) -> PageSet:
        runs = join(np.concatenate(self._runs)) if self._runs else np.empty((0, 2), np.int64)
        by_class = {kind.name: int(self._by_class[kind]) for kind in PageClass if self._by_class[kind]}
        named = tuple((start, stop) for start, stop in runs[:MAX_RUNS].tolist())
        return PageSet(self._n_pages, named, by_class, tuple(self._examples))


def _example(pfn: int, how: str, chunk: Any) -> PageExample:
    if chunk is None or pfn >= chunk.pfn_stop:
        return PageExample(pfn, how)
    row = pfn - chunk.pfn_start
    traits = tuple(trait.name for trait in Trait if chunk.traits[row] & trait)
    fields = {
        name: int(chunk.records[name][row]) for name in chunk.records.dtype.names if name not in ("order", "dtor")
    }
    return PageExample(pfn, how, PageClass(int(chunk.classes[row])).name, traits, fields)


class _Reader:
    """Reads pages of one dump in a thread of its own, ahead of the one that compares."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._pool = ThreadPoolExecutor(1)
        self.npages = max(_BATCH_NBYTES // source.page_size, 1)
        self._buffers = deque(page_buffer(self.npages, source.page_size) for _ in range(_N_AHEAD + 1))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, runs: Runs) -> Future[tuple[U8, dict[int, str]]]:
        """Begin to read pages; the buffer is used again after as many further calls as there are buffers."""
        pages = self._buffers[0][: count(runs)]
        self._buffers.rotate(-1)
        return self._pool.submit(self._read, runs, pages)

    def _read(self, runs: Runs, pages: U8) -> tuple[U8, dict[int, str]]:
        """Return pages, and why some of them can't be had."""
        losses = self._source.gather(runs, pages)
        if not losses:
            return pages, {}
        pfns = expand(runs[:, 0], runs[:, 1] - runs[:, 0])
        return pages, {int(pfns[loss.row]): str(loss.error) for loss in losses}


def compare_pages(
    one: Source, other: Source, table: PageTable | None, compares_stored: bool, observer: Observer
) -> Found:
    """Compare bitmaps and contents; see `npdump.compare.compare`."""
    memory, lost, extra, changed, stored = (_Collector(table) for _ in range(5))
    n_same = n_implied = 0
    readers = _Reader(one), _Reader(other)
    max_mapnr = max(one.max_mapnr, other.max_mapnr)
    try:
        for start in _chunk_starts(one, other):
            (ram, data), (ram2, data2) = _masks(one, start), _masks(other, start)
            memory.add(np.flatnonzero(ram != ram2) + start, {})
            both = runs_of(data & data2) + start
            differing, how = _compare_contents(both, readers)
            changed.add(differing, how)
            n_same += count(both) - len(differing)
            for only, known, lacking, target, reader in (
                (data & ~data2, ram2, other, lost, readers[0]),
                (data2 & ~data, ram, one, extra, readers[1]),
            ):
                pfns, n = _without_implied(only, known, start, lacking, reader)
                target.add(pfns, {})
                n_implied += n
            if compares_stored:
                stored.add(_differently_stored(both, one, other), {})
            observer.progress("Comparing pages", min(start + _CHUNK_NPAGES, max_mapnr), max_mapnr)
    finally:
        for reader in readers:
            reader.close()
    return Found(
        n_memory=(count(one.ram_runs), count(other.ram_runs)),
        n_kept=(count(one.data_runs), count(other.data_runs)),
        n_same=n_same,
        n_implied=n_implied,
        memory=memory.collected(),
        lost=lost.collected(),
        extra=extra.collected(),
        changed=changed.collected(),
        stored=stored.collected() if compares_stored else None,
    )


def _chunk_starts(one: Source, other: Source) -> Iterator[int]:
    """Yield the chunks that either dump has any memory in."""
    runs = np.concatenate((one.ram_runs, one.data_runs, other.ram_runs, other.data_runs))
    at = 0
    for start, stop in join(runs[np.argsort(runs[:, 0], kind="stable")]).tolist():
        at = max(at, start // _CHUNK_NPAGES * _CHUNK_NPAGES)
        yield from range(at, stop, _CHUNK_NPAGES)
        at = max(at, -(-stop // _CHUNK_NPAGES) * _CHUNK_NPAGES)


def cut(runs: Runs, npages: int) -> Iterator[Runs]:
    """Yield runs in pieces of at most ``npages`` pages."""
    lengths = runs[:, 1] - runs[:, 0]
    pfns = expand(runs[:, 0], lengths)
    for at in range(0, len(pfns), npages):
        yield _runs(pfns[at : at + npages])


def _compare_contents(both: Runs, readers: tuple[_Reader, _Reader]) -> tuple[I64, dict[int, str]]:
    """Return the page frames whose contents differ, and how the first of them do."""
    differing: list[I64] = [np.empty(0, np.int64)]
    how: dict[int, str] = {}
    waiting: deque[tuple[Runs, Any, Any]] = deque()
    pieces = cut(both, readers[0].npages)
    while True:
        while len(waiting) < _N_AHEAD and (piece := next(pieces, None)) is not None:
            waiting.append((piece, readers[0].submit(piece), readers[1].submit(piece)))
        if not waiting:
            return np.concatenate(differing), how
        piece, *futures = waiting.popleft()
        (pages, failed), (pages2, failed2) = (future.result() for future in futures)
        is_other = (pages.view(np.uint64) != pages2.view(np.uint64)).any(axis=1)
        pfns = expand(piece[:, 0], piece[:, 1] - piece[:, 0])
        is_other |= np.isin(pfns, [*failed, *failed2]) if failed or failed2 else np.False_
        for row in np.flatnonzero(is_other)[:MAX_EXAMPLES].tolist():
            pfn = int(pfns[row])
            how[pfn] = failed.get(pfn) or failed2.get(pfn) or _first_difference(pages[row], pages2[row])
        differing.append(pfns[is_other])


def _first_difference(page: U8, page2: U8) -> str:
    at = int(np.flatnonzero(page != page2)[0])
    n = int((page != page2).sum())
    return f"{n} bytes differ, the first at {at:#x}: {page[at]:#04x} and {page2[at]:#04x}"


def _masks(source: Source, start: int) -> tuple[Bool, Bool]:
    """Return which pages of a chunk are memory, and which are in the dump."""
    stop = start + _CHUNK_NPAGES
    return mask_of(source.ram_runs, start, stop), mask_of(source.data_runs, start, stop)


def _without_implied(only: Bool, known: Bool, start: int, lacking: Source, reader: _Reader) -> tuple[I64, int]:
    """Return the page frames that one dump has alone, and how many more the other one says to be zero."""
    pfns = np.flatnonzero(only & known) + start
    implied = pfns[_implied_zero(pfns, lacking, reader)]
    only[implied - start] = False
    return np.flatnonzero(only) + start, len(implied)


def _implied_zero(pfns: I64, lacking: Source, reader: _Reader) -> Bool:
    """Return which pages, of memory that ``lacking`` knows of and does not store, it says to be zero, and are."""
    implied = np.zeros(len(pfns), np.bool_)
    # ELF: memory beyond p_filesz reads as zeros. kdump-compressed files have zero pages at every level (all of them
    # share one place), and what they leave out reads as nothing.
    if is_kdump(lacking):
        return implied
    for at in range(0, len(pfns), reader.npages):
        rows = slice(at, at + reader.npages)
        pages, failed = reader.submit(_runs(pfns[rows])).result()
        implied[rows] = is_zero(pages)
        if failed:
            implied[rows] &= ~np.isin(pfns[rows], list(failed))
    return implied


def _differently_stored(both: Runs, one: Source, other: Source) -> I64:
    """Return the page frames whose pages are stored in other bytes."""
    assert one.compressed is not None
    assert other.compressed is not None
    differing: list[I64] = [np.empty(0, np.int64)]
    for piece in cut(both, max(_BATCH_NBYTES // other.page_size, 1)):
        ours, theirs = one.compressed.locate(piece), other.compressed.locate(piece)
        is_other = (ours.flags != theirs.flags) | (ours.nbytes != theirs.nbytes)
        rows = np.flatnonzero(~is_other)
        pairs = zip(one.compressed.buffers(ours[rows]), other.compressed.buffers(theirs[rows]), strict=True)
        is_other[rows] = [mine.tobytes() != yours.tobytes() for mine, yours in pairs]
        differing.append(expand(piece[:, 0], piece[:, 1] - piece[:, 0])[is_other])
    return np.concatenate(differing)


def _runs(pfns: I64) -> Runs:
    return join(np.column_stack((pfns, pfns + 1)))
