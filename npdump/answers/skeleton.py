# SPDX-License-Identifier: GPL-2.0-or-later
"""What is left of a dump as a reference: counts and digests in a few kilobytes of JSON, so that no dump is stored.

A digest of page frames says whether the same pages are there; one of contents, whether they hold the same. Memory is
cut into pieces that have their own, so that a difference is not only seen but found.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from npdump.arrays import count, expand, intersect
from npdump.compare._pages import cut
from npdump.storage.file import page_buffer

if TYPE_CHECKING:
    from npdump.arrays import Runs
    from npdump.sources import Source

__all__ = ["Skeleton", "differences", "make_skeleton"]

VERSION = 1
_PIECE_NPAGES = 1 << 14
_BATCH_NBYTES = 1 << 20
_START = re.compile(r"0x[0-9a-f]{1,16}")


@dataclass(frozen=True)
class Skeleton:
    """A dump without its pages.

    Attributes
    ----------
    version : int
        Of this format.
    page_size : int
        Bytes.
    n_memory, n_kept : int
        Pages of memory, and those in the dump.
    piece_npages : int
        Page frames in a piece.
    pieces : dict of str to list
        By the first page frame, in hexadecimal digits: number of pages, digest of their page frames, digest of their
        contents. Pieces without pages are left out.
    vmcoreinfo : str
        Digest of VMCOREINFO.
    """

    version: int
    page_size: int
    n_memory: int
    n_kept: int
    piece_npages: int
    pieces: dict[str, list[int | str]]
    vmcoreinfo: str

    def as_json(self) -> str:
        """Return it as text, the same for the same dump."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Skeleton:
        """Read what `as_json` made.

        Raises
        ------
        ValueError
            If it is none, or one of another version.
        """
        try:
            stated = json.loads(text)
            found = cls(**stated)
        except (TypeError, RecursionError, json.JSONDecodeError) as error:
            raise ValueError(f"not a skeleton of a dump: {error}") from error
        if found.version != VERSION:
            raise ValueError(f"a skeleton of version {found.version}, not {VERSION}: make it again")
        if not _is_sound(stated):
            raise ValueError("a damaged skeleton of a dump: make it again")
        return found


def _is_sound(stated: dict[str, Any]) -> bool:
    """Return whether the fields are what they should be: they come out of a file."""
    pieces = stated["pieces"]
    return (
        all(type(stated[name]) is int for name in ("page_size", "n_memory", "n_kept", "piece_npages"))
        and isinstance(stated["vmcoreinfo"], str)
        and isinstance(pieces, dict)
        and all(_START.fullmatch(start) and _is_piece(piece) for start, piece in pieces.items())
    )


def _is_piece(piece: Any) -> bool:
    return isinstance(piece, list) and [type(value) for value in piece] == [int, str, str]


def make_skeleton(source: Source) -> Skeleton:
    """Read every page of a dump and keep digests.

    Parameters
    ----------
    source : Source

    Raises
    ------
    LostPage
        If a page can not be had.
    """
    pieces: dict[str, list[int | str]] = {}
    npages = max(_BATCH_NBYTES // source.page_size, 1)
    room = page_buffer(npages, source.page_size)
    for start in range(0, source.max_mapnr, _PIECE_NPAGES):
        runs = intersect(source.data_runs, np.array([[start, start + _PIECE_NPAGES]], np.int64))
        if len(runs):
            pieces[f"{start:#x}"] = _piece(source, runs, npages, room)
    digest = hashlib.sha256(source.notes.vmcoreinfo or b"").hexdigest()[:16]
    n_memory, n_kept = count(source.ram_runs), count(source.data_runs)
    return Skeleton(VERSION, source.page_size, n_memory, n_kept, _PIECE_NPAGES, pieces, digest)


def _piece(source: Source, runs: Runs, npages: int, room: np.ndarray) -> list[int | str]:
    pfns, contents = hashlib.sha256(), hashlib.sha256()
    for batch in cut(runs, npages):
        pages = room[: count(batch)]
        for loss in source.gather(batch, pages):
            raise loss.error
        pfns.update(expand(batch[:, 0], batch[:, 1] - batch[:, 0]).astype("<u8").tobytes())
        contents.update(pages.data)
    return [count(runs), pfns.hexdigest()[:16], contents.hexdigest()[:16]]


def differences(one: Skeleton, other: Skeleton) -> list[str]:
    """Say in words what two skeletons do not agree about; empty if they are of the same dump."""
    found = []
    for name in ("page_size", "n_memory", "n_kept"):
        mine, yours = getattr(one, name), getattr(other, name)
        if mine != yours:
            found.append(f"{name}: {mine} and {yours}")
    for start in sorted({*one.pieces, *other.pieces}, key=lambda key: int(key, 16)):
        mine, yours = one.pieces.get(start), other.pieces.get(start)
        if mine == yours:
            continue
        where = f"page frames {start} to {int(start, 16) + one.piece_npages:#x}"
        n_mine, n_yours = (piece[0] if piece else 0 for piece in (mine, yours))
        if mine is None or yours is None or mine[1] != yours[1]:
            found.append(f"{where}: other pages are kept, {n_mine} and {n_yours}")
        else:
            found.append(f"{where}: the {n_mine} pages hold other bytes")
    if one.vmcoreinfo != other.vmcoreinfo:
        found.append("VMCOREINFO differs")
    return found
