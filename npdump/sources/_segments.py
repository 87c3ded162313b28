# SPDX-License-Identifier: GPL-2.0-or-later
"""What of the memory that an ELF file's program headers name is really in the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.arrays import I64, Bool, Records, Runs, count, subtract
from npdump.sources._extents import page_runs

if TYPE_CHECKING:
    from npdump.storage import Storage

__all__ = ["Memory", "bound_claims", "memory_of", "possible"]

MAX_PADDR = 1 << 56
"""No machine has more physical address bits (RISC-V, SV57)."""

MAX_CLAIM_NBYTES = 1 << 40
CLAIM_PER_BYTE = 4096
"""Memory without data that a file may speak of: 1 TiB, and a page for each byte of the file.

A dump that left out nearly all of a machine of 64 TiB has some GiB. Bitmaps of so much memory take no more than a few
times the file's own size.
"""


MAX_TIMES_IN_FILE = 4
"""How often the bytes of a file may stand for memory.

The kernel's image is named twice, by the direct map's segment as well, and a damaged size may name all of the file.
"""


class Memory(NamedTuple):
    """Memory that an ELF file speaks of, and which of it the file has.

    Attributes
    ----------
    paddr, nbytes, offset : ndarray of shape (n,), dtype int64
        Ranges of memory that are in the file, and where.
    max_mapnr : int
        One more than the highest page frame.
    ram_runs, data_runs : Runs
        See `npdump.sources.Source`.
    n_lost : int
        Pages that should be in the file and are not: it was cut short.
    """

    paddr: I64
    nbytes: I64
    offset: I64
    max_mapnr: int
    ram_runs: Runs
    data_runs: Runs
    n_lost: int


def possible(storage: Storage, segments: Records) -> tuple[Records, tuple[str, ...]]:
    """Put segments right that no machine can have, by what of them is in the file; the others are taken out.

    Returns
    -------
    segments : ndarray of dtype SEGMENT
    doubts : tuple of str
        A line about each kind of what was wrong.
    """
    segments = segments.copy()
    paddr, filesz, memsz = segments["paddr"], segments["filesz"], segments["memsz"]
    offset = segments["offset"].astype(np.int64)
    # An offset past 2**63 is negative here.
    in_file = np.where(offset < 0, 0, np.maximum(storage.nbytes - offset, 0)).astype(np.uint64)
    doubts = []

    def doubt(which: Bool, words: str) -> None:
        if which.any():
            at = np.flatnonzero(which)[0]
            doubts.append(
                f"{storage.path}: corrupt program header: memory at {paddr[at]:#x}, {memsz[at]:#x} bytes{words}"
            )

    more_in_file = filesz > memsz
    doubt(more_in_file, ", would have more in the file: what is there is taken")
    memsz[more_in_file] = filesz[more_in_file] = np.minimum(filesz, in_file)[more_in_file]
    is_too_high = paddr > MAX_PADDR
    doubt(is_too_high, ", is beyond what any machine has: it is left out")
    # Compared by subtraction: a sum of damaged fields may wrap around.
    is_too_large = ~is_too_high & (memsz > MAX_PADDR - np.minimum(paddr, MAX_PADDR))
    doubt(is_too_large, ", is beyond what any machine has: what is in the file is taken")
    memsz[is_too_large] = filesz[is_too_large] = np.minimum(filesz, in_file)[is_too_large]
    return segments[~is_too_high], tuple(doubts)


def bound_claims(storage: Storage, segments: Records) -> tuple[Records, tuple[str, ...]]:
    """Take memory out of the segments that a file of this size can't be the dump of.

    Work and memory grow with what the segments name. What they claim to be in the file and isn't, or to have been left
    out, costs whoever wrote the headers nothing; neither do the same bytes of the file as many segments' data.

    Returns
    -------
    segments : ndarray of dtype SEGMENT
    doubts : tuple of str
        A line about what was taken out.
    """
    offset, filesz, memsz = (segments[name].astype(np.int64) for name in ("offset", "filesz", "memsz"))
    # An offset past 2**63 is negative here.
    present = np.clip(storage.nbytes - np.where(offset < 0, storage.nbytes, offset), 0, filesz)
    there = np.where(storage.covers(offset, filesz), filesz, present)
    segments, doubts = _once(storage, segments, there)
    claims = np.where(segments["memsz"] > 0, memsz - there, 0)
    order = np.argsort(claims, kind="stable")
    # As floats: the sum of 2**16 times 2**56 is no int64.
    is_absurd = np.cumsum(claims[order].astype(np.float64)) > MAX_CLAIM_NBYTES + CLAIM_PER_BYTE * storage.nbytes
    absurd = order[is_absurd]
    if not len(absurd):
        return segments, doubts
    worst = absurd[-1]
    doubt = (
        f"{storage.path}: corrupt program header: of {memsz[worst]:#x} bytes of memory at "
        f"{int(segments['paddr'][worst]):#x}, {there[worst]:#x} are in the file of {storage.nbytes} bytes: the rest is "
        "taken for no memory"
    )
    segments = segments.copy()
    segments["memsz"][absurd] = segments["filesz"][absurd] = there[absurd]
    return segments, (*doubts, doubt)


def _once(storage: Storage, segments: Records, there: I64) -> tuple[Records, tuple[str, ...]]:
    """Take the segments out whose bytes in the file are many others' already."""
    is_too_much = (np.cumsum(there.astype(np.float64)) > MAX_TIMES_IN_FILE * storage.nbytes) & (there > 0)
    if not is_too_much.any():
        return segments, ()
    doubt = (
        f"{storage.path}: corrupt program header: {int(there.sum(dtype=object))} bytes of memory can't be in the file "
        f"of {storage.nbytes} bytes: {np.count_nonzero(is_too_much)} of {len(segments)} program headers are not used"
    )
    segments = segments.copy()
    segments["memsz"][is_too_much] = segments["filesz"][is_too_much] = 0
    return segments, (doubt,)


def memory_of(storage: Storage, segments: Records, page_size: int, with_heads: bool = False) -> Memory:
    """Find out what of the memory that segments name is in the file.

    Parameters
    ----------
    storage : Storage
    segments : ndarray of dtype SEGMENT
    page_size : int
        Bytes.
    with_heads : bool
        See `npdump.sources._extents.page_runs`.
    """
    paddr, filesz, memsz, offset = (segments[name].astype(np.int64) for name in ("paddr", "filesz", "memsz", "offset"))
    shift = page_size.bit_length() - 1
    stop = paddr + memsz
    # A page that the file holds in part is in the file, where the rest was left out by an earlier filter.
    data_stop = np.where(filesz < memsz, -(-(paddr + filesz) >> shift) << shift, stop)
    claimed = page_runs(paddr, np.where(filesz > 0, data_stop, paddr), shift, with_heads)
    max_mapnr, ram_runs = int(-(-stop.max() >> shift)), page_runs(paddr, stop, shift, with_heads)
    is_whole = storage.covers(offset, filesz) | (filesz == 0)
    if is_whole.all():
        return Memory(paddr, filesz, offset, max_mapnr, ram_runs, claimed, 0)
    pieces = [np.column_stack((paddr, filesz, offset, data_stop))[is_whole]]
    pieces += [
        _present(storage, int(paddr[i]), int(filesz[i]), int(offset[i]), int(data_stop[i]), page_size)
        for i in np.flatnonzero(~is_whole & (offset >= 0)).tolist()
    ]
    paddr, filesz, offset, data_stop = np.concatenate(pieces).T
    data_runs = page_runs(paddr, np.where(filesz > 0, data_stop, paddr), shift, with_heads)
    return Memory(paddr, filesz, offset, max_mapnr, ram_runs, data_runs, count(subtract(claimed, data_runs)))


def _present(storage: Storage, paddr: int, filesz: int, offset: int, data_stop: int, page_size: int) -> I64:
    """Return what of a segment is in the file, in whole pages where it was cut; shape (n, 4)."""
    found = []
    for start, stop in storage.present(offset, offset + filesz).tolist():
        low, high = paddr + start - offset, paddr + stop - offset
        if start > offset:
            low = -(-low // page_size) * page_size
        is_cut = stop < offset + filesz
        if is_cut:
            high = high // page_size * page_size
        if low < high:
            found.append((low, high - low, offset + low - paddr, high if is_cut else data_stop))
    return np.array(found, np.int64).reshape(-1, 4)
