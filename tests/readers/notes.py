# SPDX-License-Identifier: GPL-2.0-or-later
"""Notes of either output format."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class Note(NamedTuple):
    """One ELF note and where its description lies in the note area."""

    name: str
    n_type: int
    desc: bytes
    offset: int


def iter_notes(area: bytes, order: str = "<") -> Iterator[Note]:
    """All notes of an area; all-zero headers are stepped over."""
    position = 0
    while position + 12 <= len(area):
        name_nbytes, desc_nbytes, n_type = struct.unpack_from(order + "III", area, position)
        name_at = position + 12
        desc_at = name_at + -(-name_nbytes // 4) * 4
        position = desc_at + -(-desc_nbytes // 4) * 4
        if name_nbytes or desc_nbytes:
            name = area[name_at : name_at + name_nbytes].rstrip(b"\0").decode("latin-1")
            yield Note(name, n_type, area[desc_at : desc_at + desc_nbytes], desc_at)


def find(area: bytes, name: str, order: str = "<") -> Note | None:
    """The first note of that name."""
    return next((note for note in iter_notes(area, order) if note.name == name), None)


def count_prstatus(area: bytes, order: str = "<") -> int:
    """Number of CPUs that left their registers."""
    return sum(note.name == "CORE" and note.n_type == 1 for note in iter_notes(area, order))
