# SPDX-License-Identifier: GPL-2.0-or-later
"""What two dumps say beside their pages: headers, notes, VMCOREINFO."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from npdump.sources._notes import parse_notes

if TYPE_CHECKING:
    from npdump.sources import Source

__all__ = ["Difference", "compare_headers", "compare_notes", "compare_vmcoreinfo", "is_kdump"]

_VMCOREINFO = b"VMCOREINFO"


class Difference(NamedTuple):
    """Something that two dumps say differently; None for what one of them does not say."""

    name: str
    one: str | None
    other: str | None


def is_kdump(source: Source) -> bool:
    """Return whether a dump's format has a header that tells of an earlier filter, and compressed pages."""
    return source.compressed is not None


def compare_headers(one: Source, other: Source) -> tuple[Difference, ...]:
    """Compare what both headers state; the form of the file, its word size and its codec may differ."""
    pairs = zip(_headers(one).items(), _headers(other).values(), strict=True)
    return tuple(
        Difference(name, value, wanted)
        for (name, value), wanted in pairs
        if value is not None and wanted is not None and value != wanted
    )


def _headers(source: Source) -> dict[str, str | None]:
    history = source.history
    has_header = is_kdump(source)
    names: tuple[bytes, ...] = history.utsname or ()
    return {
        "machine": str(source.header.machine),
        "byte order": source.header.byte_order,
        "CPUs": str(source.notes.n_cpus),
        "dump level": str(history.level) if has_header else None,
        "utsname": " ".join(name.decode("utf-8", "backslashreplace") for name in names) if has_header else None,
        "phys_base": f"{history.phys_base:#x}" if has_header else None,
        "time": str(history.timestamp) if has_header else None,
        "pages lost": str(history.n_lost),
        "erased": history.eraseinfo.decode("utf-8", "backslashreplace"),
    }


def compare_notes(one: Source, other: Source) -> tuple[Difference, ...]:
    """Compare the notes but VMCOREINFO, which has an area of its own, in any order."""
    ours, theirs = Counter(_notes(one)), Counter(_notes(other))
    found = []
    for name, digest in sorted({*ours, *theirs}):
        n_ours, n_theirs = ours[name, digest], theirs[name, digest]
        if n_ours != n_theirs:
            found.append(Difference(f"{name}, {digest}", _times(n_ours), _times(n_theirs)))
    return tuple(found)


def _times(n: int) -> str | None:
    return f"{n} times" if n > 1 else "there" if n else None


def _notes(source: Source) -> list[tuple[str, str]]:
    found = []
    for note in parse_notes(source.notes.area, source.header.byte_order):
        if note.name != _VMCOREINFO:
            desc = source.notes.area[note.desc_offset :][: note.desc_nbytes]
            name = note.name.decode("ascii", "backslashreplace")
            digest = hashlib.sha256(desc).hexdigest()[:16]
            found.append((f"{name} of type {note.type:#x}", f"{note.desc_nbytes} bytes with sha256 {digest}…"))
    return found


def compare_vmcoreinfo(one: Source, other: Source) -> tuple[Difference, ...]:
    """Compare VMCOREINFO key by key."""
    ours, theirs = _keys(one.notes.vmcoreinfo), _keys(other.notes.vmcoreinfo)
    return tuple(
        Difference(key, ours.get(key), theirs.get(key))
        for key in {**ours, **theirs}
        if ours.get(key) != theirs.get(key)
    )


def _keys(text: bytes | None) -> dict[str, str]:
    lines = (text or b"").rstrip(b"\0").decode("utf-8", "backslashreplace").splitlines()
    pairs = (line.partition("=") for line in lines if line)
    return {key: value for key, _, value in pairs}
