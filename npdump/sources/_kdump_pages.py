# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the pages of kdump-compressed files are, and what they hold."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from npdump import codecs
from npdump.arrays import I64, U8, U32, Bool, Index, Records, Runs, expand, join, runs_of, unique
from npdump.errors import AddressError, CodecError, CorruptDump, LostPage, NpdumpError, ReadError
from npdump.layouts import kdump
from npdump.layouts.page_flag import PageFlag
from npdump.sources import Loss, PageLocations

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from npdump.codecs import DecodePages
    from npdump.sources._kdump_header import KdumpHeader
    from npdump.storage import Storage

__all__ = ["PageTable", "Part", "read_bitmap"]


MAX_RUNS = 1 << 22
"""Stretches of memory; real machines have some dozens. Bounds what a damaged bitmap makes us allocate."""

_PIECE_NBYTES = 1 << 20
_SCAN_NPAGES = 1 << 18
_SPAN_SHIFT = 22
_MAX_GAP_NBYTES = 1 << 16
_UNDECODABLE = CodecError("doesn't uncompress to a page: the dump is damaged; copy it again")
_FLAGS = np.zeros(2 + max(map(int, PageFlag)), np.bool_)
_FLAGS[[int(PageFlag.RAW), *map(int, PageFlag)]] = True


class Part(NamedTuple):
    """A file with its header; one of several, if the dump is split."""

    storage: Storage
    header: KdumpHeader


def read_bitmap(
    storage: Storage,
    offset: int,
    max_mapnr: int,
    max_runs: int = MAX_RUNS,
    bitorder: Literal["little", "big"] = "little",
) -> Runs:
    """Return the page frames whose bits are set, as disjoint ascending runs.

    Raises
    ------
    CorruptDump
        If there are more than ``max_runs`` runs.
    """
    found: list[Runs] = [np.empty((0, 2), np.int64)]
    n_runs = 0
    for at in _pieces_with_data(storage, offset, -(-max_mapnr // 8)):
        packed = storage.view(offset + at, min(_PIECE_NBYTES, -(-max_mapnr // 8) - at))
        if packed.any():
            bits = np.unpackbits(packed, bitorder=bitorder, count=min(max_mapnr - at * 8, _PIECE_NBYTES * 8))
            found.append(runs_of(bits.view(np.bool_)) + at * 8)
            n_runs += len(found[-1])
            if n_runs > max_runs:
                text = f"{storage.path}: corrupt bitmap: more than {max_runs} stretches of pages"
                raise CorruptDump(text, path=storage.path, offset=offset + at)
    return join(np.concatenate(found))


def _pieces_with_data(storage: Storage, offset: int, nbytes: int) -> Iterator[int]:
    """Yield where the pieces of a bitmap begin that are not known to be holes, counted from ``offset``."""
    at = 0
    for start, stop in storage.data_ranges(offset, offset + nbytes).tolist():
        at = max(at, (start - offset) // _PIECE_NBYTES * _PIECE_NBYTES)
        while at < stop - offset:
            yield at
            at += _PIECE_NBYTES


def _lengths(runs: Runs) -> I64:
    return runs[:, 1] - runs[:, 0]


class PageTable:
    """The pages of a dump, as its descriptors say; see `npdump.sources.CompressedPages`.

    Parameters
    ----------
    parts : sequence of Part
        In order of their page frames, which must not overlap.
    first_pfn : int
        The page frame that the files count as 0.

    Attributes
    ----------
    data_runs : ndarray of shape (k, 2), dtype int64
        Page frames whose descriptors and data are there.
    missing : tuple of two int, or None
        The first page frames whose pages are in parts that aren't there.
    n_elsewhere : int
        Pages in such parts.
    n_lost : int
        Pages that bitmap 2 has and the file hasn't: it's incomplete, truncated or damaged.
    """

    def __init__(self, parts: Sequence[Part], first_pfn: int) -> None:
        self._parts = parts
        self._first_pfn = first_pfn
        storage, header = parts[0]
        self._page_size = header.page_size
        self._desc = kdump.PAGE_DESC.newbyteorder(header.byte_order)
        # Each page needs a descriptor, so the file's size bounds the number of runs.
        n_descs = sum(max(part.storage.nbytes - part.header.desc_offset, 0) for part in parts) // self._desc.itemsize
        kept = read_bitmap(storage, header.kept_offset, header.max_mapnr, max(n_descs, MAX_RUNS))
        self._starts, self._stops = kept[:, 0], kept[:, 1]
        self._ranks = np.cumsum(_lengths(kept)) - _lengths(kept)
        self._n_kept = int(_lengths(kept).sum())
        self._first_ranks = self._ranks_below(np.array([part.header.start_pfn for part in parts], np.int64))
        self._stop_ranks = self._ranks_below(np.array([part.header.end_pfn for part in parts], np.int64))
        starts = np.array([*(part.header.start_pfn for part in parts), header.max_mapnr], np.int64)
        stops = np.array([0, *(part.header.end_pfn for part in parts)], np.int64)
        has_pages = np.append(self._first_ranks, self._n_kept) > np.append(0, self._stop_ranks)
        missing = np.column_stack((stops, starts))[has_pages].tolist()
        self.missing: tuple[int, int] | None = tuple(missing[0]) if missing else None
        self.n_elsewhere = self._n_kept - int((self._stop_ranks - self._first_ranks).sum())
        self._zero_offsets = np.full(len(parts), -1, np.int64)
        self._decoders: dict[int, DecodePages] = {}
        self.n_lost = 0
        self._there = self._scan(kept)
        self.data_runs = self._there + first_pfn

    def _ranks_below(self, pfns: I64) -> I64:
        """Return how many kept pages there are below each page frame."""
        i = np.searchsorted(self._starts, pfns, side="right") - 1
        inside = np.minimum(pfns, self._stops[i]) - self._starts[i] if len(self._starts) else 0
        return np.where(i < 0, 0, (self._ranks[i] if len(self._ranks) else 0) + inside)

    def _scan(self, kept: Runs) -> Runs:
        """Look at every descriptor once: which pages are there, and which one is each part's shared zero page."""
        found: list[Runs] = [np.empty((0, 2), np.int64)]
        for number, part in enumerate(self._parts):
            first, stop = self._first_ranks[number], self._stop_ranks[number]
            lowest = np.iinfo(np.int64).max
            for rank in range(int(first), int(stop), _SCAN_NPAGES):
                rank_stop = min(rank + _SCAN_NPAGES, int(stop))
                desc = self._read_descs(number, rank, rank_stop)
                there = self._is_there(part.storage, desc)
                self.n_lost += len(there) - int(there.sum())
                found.append(runs_of(there) + rank)
                raw = desc["offset"][there & (desc["flags"] == PageFlag.RAW)]
                lowest = min(lowest, int(raw.min(initial=lowest)))
            if lowest <= part.storage.nbytes - self._page_size and not part.storage.view(lowest, self._page_size).any():
                self._zero_offsets[number] = lowest
        ranks = join(np.concatenate(found))
        if not len(ranks):
            return ranks
        # Back from ranks to page frames: cut where the kept pages have gaps.
        cuts = unique(np.concatenate((ranks[:, 0], self._ranks)))
        owner = np.searchsorted(ranks[:, 0], cuts, side="right") - 1
        inside = (owner >= 0) & (cuts < ranks[owner, 1])
        cuts, owner = cuts[inside], owner[inside]
        i = np.searchsorted(self._ranks, cuts, side="right") - 1
        starts = self._starts[i] + cuts - self._ranks[i]
        ends = np.minimum(self._stops[i] - self._starts[i] + self._ranks[i], ranks[owner, 1])
        return join(np.column_stack((starts, starts + ends - cuts)))

    def _is_there(self, storage: Storage, desc: Records) -> Bool:
        nbytes = desc["size"].astype(np.int64)
        there = (desc["offset"] > 0) & (nbytes > 0) & (nbytes <= self._page_size)
        there &= self._are_known(desc["flags"])
        there &= (desc["flags"] != PageFlag.RAW) | (nbytes == self._page_size)
        return there & storage.covers(desc["offset"], nbytes)

    @staticmethod
    def _are_known(flags: U32) -> Bool:
        """Return which pages are stored in a way that npdump has a codec for."""
        known = _FLAGS[np.minimum(flags, len(_FLAGS) - 1)]
        if known.all():
            return known
        # Other distributions may add codecs; looking for them takes a while.
        for flag in unique(flags[~known]).tolist():
            if flag.bit_count() == 1 and codecs.by_flag(flag) is not None:
                known |= flags == flag
        return known

    def _read_descs(self, number: int, rank: int, rank_stop: int) -> Records:
        """Return descriptors of one part; those behind the end of the file are zero."""
        storage, header = self._parts[number]
        offset = header.desc_offset + (rank - int(self._first_ranks[number])) * self._desc.itemsize
        nbytes = (rank_stop - rank) * self._desc.itemsize
        raw = storage.read(offset, min(nbytes, max(storage.nbytes - offset, 0)))
        return np.frombuffer(raw.ljust(nbytes, b"\0"), self._desc)

    def locate(self, runs: Runs) -> PageLocations:
        """See `npdump.sources.CompressedPages.locate`."""
        lengths = _lengths(runs)
        pfns = expand(runs[:, 0], lengths)
        runs = runs - self._first_pfn
        i = self._owners(self._starts, self._stops, runs, "aren't in the dump")
        there = self._there
        self._owners(there[:, 0], there[:, 1], runs, "were lost when the dump was made, or with the file's end")
        ranks = expand(self._ranks[i] + runs[:, 0] - self._starts[i], lengths)
        desc = np.empty(len(pfns), self._desc)
        numbers = np.searchsorted(self._first_ranks, ranks, side="right") - 1
        # Descriptors that are near to each other are read together.
        breaks = np.flatnonzero((np.diff(ranks) > _MAX_GAP_NBYTES // self._desc.itemsize) | (np.diff(numbers) != 0)) + 1
        for first, stop in _pieces(breaks, len(pfns)):
            low, number = int(ranks[first]), int(numbers[first])
            desc[first:stop] = self._read_descs(number, low, int(ranks[stop - 1]) + 1)[ranks[first:stop] - low]
        offsets = desc["offset"].astype(np.int64)
        is_zero = offsets == self._zero_offsets[numbers]
        nbytes, flags = desc["size"].astype(np.int64), desc["flags"].astype(np.uint32)
        return PageLocations(pfns, numbers, offsets, nbytes, flags, is_zero)

    def _owners(self, starts: I64, stops: I64, runs: Runs, trouble: str) -> Index:
        """Return which of the ranges ``[starts, stops)`` has each run."""
        i = np.searchsorted(starts, runs[:, 0], side="right") - 1
        is_lacking = i < 0 if not len(stops) else (i < 0) | (runs[:, 1] > stops[i])
        if is_lacking.any():
            pfn, pfn_stop = (runs[is_lacking][0] + self._first_pfn).tolist()
            raise AddressError(f"some of the physical pages {pfn:#x} to {pfn_stop:#x} {trouble}", pfn=pfn)
        return i

    def joined(self, locations: PageLocations) -> Any:
        """See `npdump.sources.CompressedPages.joined`."""
        spans = [data for data, _, _ in self._spans(locations, max_gap=0)]
        return spans[0] if len(spans) == 1 else b"".join(spans)

    def buffers(self, locations: PageLocations) -> list[memoryview]:
        """See `npdump.sources.CompressedPages.buffers`."""
        pages: list[memoryview] = []
        for data, starts, nbytes in self._spans(locations, max_gap=_MAX_GAP_NBYTES):
            view = memoryview(data)
            pages += [view[start : start + n] for start, n in zip(starts.tolist(), nbytes.tolist(), strict=True)]
        return pages

    def gather(self, runs: Runs, out: U8) -> Sequence[Loss]:
        """See `npdump.sources.Source.gather`."""
        return self.decode(self.locate(runs), out)

    def decode(self, locations: PageLocations, out: U8) -> Sequence[Loss]:
        """See `npdump.sources.CompressedPages.decode`."""
        losses: list[Loss] = []
        for flag in unique(locations.flags[~locations.is_zero]).tolist():
            chosen = np.flatnonzero((locations.flags == flag) & ~locations.is_zero)
            decoder, at = self._decoder(flag), 0
            try:
                for data, starts, nbytes in self._spans(locations[chosen], _MAX_GAP_NBYTES):
                    rows = chosen[at : at + len(starts)]
                    good = decoder(data, starts, nbytes, out, rows)
                    at += len(rows)
                    losses += [
                        self._lost(locations, row, _UNDECODABLE) for row in rows[~np.array(good, np.bool_)].tolist()
                    ]
            except ReadError:
                losses += self._decode_singly(decoder, locations, chosen[at:], out)
        out[locations.is_zero] = 0
        for loss in losses:
            out[loss.row] = 0
        return sorted(losses, key=lambda loss: loss.row)

    def _decode_singly(self, decoder: DecodePages, locations: PageLocations, rows: Index, out: U8) -> list[Loss]:
        """Do as `decode`, page by page: some can't be read."""
        losses = []
        for i in range(len(rows)):
            row = int(rows[i])
            try:
                for data, starts, nbytes in self._spans(locations[rows[i : i + 1]], 0):
                    if not all(decoder(data, starts, nbytes, out, rows[i : i + 1])):
                        losses.append(self._lost(locations, row, _UNDECODABLE))
            except ReadError as error:
                losses.append(self._lost(locations, row, error))
        return losses

    def _lost(self, locations: PageLocations, row: int, error: NpdumpError) -> Loss:
        pfn, offset = int(locations.pfns[row]), int(locations.offsets[row])
        path = self._parts[int(locations.numbers[row])].storage.path
        lost = LostPage(
            f"physical page {pfn:#x}, at byte {offset} of {path}: {error}", path=path, offset=offset, pfn=pfn
        )
        lost.__cause__ = error
        return Loss(row, lost)

    def _spans(self, locations: PageLocations, max_gap: int) -> Iterator[tuple[bytes, I64, I64]]:
        """Yield stretches of a file that hold the next pages, where in the stretch each of these is, and its size."""
        numbers, starts, stops = locations.numbers, locations.offsets, locations.offsets + locations.nbytes
        gaps = starts[1:] - stops[:-1]
        is_break = (gaps < 0) | (gaps > max_gap) | (numbers[1:] != numbers[:-1])
        is_break |= starts[1:] >> _SPAN_SHIFT != starts[:-1] >> _SPAN_SHIFT
        for first, stop in _pieces(np.flatnonzero(is_break) + 1, len(locations)):
            low, high = int(starts[first]), int(stops[stop - 1])
            data = self._parts[int(numbers[first])].storage.read(low, high - low)
            yield data, starts[first:stop] - low, locations.nbytes[first:stop]

    def _decoder(self, flag: int) -> DecodePages:
        decoder = self._decoders.get(flag)
        if decoder is None:
            codec = codecs.by_flag(flag)
            if codec is None:
                path = self._parts[0].storage.path
                raise CorruptDump(
                    f"{path}: corrupt page descriptor: flags {flag:#x} name no compression that npdump knows", path=path
                )
            decoder = self._decoders[flag] = codec.decoder(self._page_size)
        return decoder


def _pieces(breaks: Index, n: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of ``[0, n)`` that begin at 0 and at each break."""
    if n:
        edges = [0, *breaks.tolist(), n]
        yield from pairwise(edges)
