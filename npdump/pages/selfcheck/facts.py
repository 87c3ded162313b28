# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the facts about struct page can be true: each by itself, and next to the others.

References
----------
Linux ``include/linux/page-flags.h`` (enum pageflags, enum pagetype), ``include/linux/mm_types.h`` (struct page),
``kernel/vmcore_info.c`` and its predecessors, from v2.6.24 to v7.2.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from npdump.pages.policy import DumpLevel
from npdump.pages.selfcheck.findings import ALL, CACHE, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.facts import Facts

__all__ = ["check_facts"]

USER, FREE = DumpLevel.USER, DumpLevel.FREE

HWPOISON = "NUMBER(PG_hwpoison)"
OFFLINE = "NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)"
UNACCEPTED = "NUMBER(PAGE_UNACCEPTED_MAPCOUNT_VALUE)"

MAX_TAIL_NBYTES = 40
"""What may follow _refcount: memcg_data, virtual, KMSAN's two pointers, _last_cpupid."""

_AFTER_SWAPBACKED = (3, 4)
"""Where PG_hwpoison is: after PG_unevictable, PG_mlocked and, on some, PG_uncached (until v6.12) or PG_dropbehind."""

_U32 = (1 << 32) - 1
_NEWEST_KNOWN = (7, 2)
"""The last release whose page types are known; later ones may number them otherwise."""

_NEWEST_FLAGS = (7, 3)
"""The last release whose page flags are known."""

_FLAGS = {"lru": CACHE, "private": CACHE, "swapcache": CACHE, "swapbacked": CACHE, "slab": USER | FREE, "hwpoison": 0}
"""Page flags, and the kinds of pages that are in doubt with each."""

_N_FLAGS = 32
"""No kernel has more flags; above them are the section, node and zone."""

_FLAG_ORDER = ("lru", "private", "swapbacked", "hwpoison")
"""Flags have changed their numbers, but never this order (enum pageflags)."""

# By scheme: the page types as _mapcount holds them. Each scheme is history, and closed, but the last one.
_SCHEMES: tuple[dict[str, tuple[int, ...]], ...] = (
    {"BUDDY": (-2 & _U32, -128 & _U32)},  # Linux 5f24ce5fd34c, v2.6.38, and ef2b4b95a63a, v2.6.39
    # Linux 6e292b9be7f4, v4.18; e04b742f74c2, v5.1 (offline); v6.9 (hugetlb); 46df8e73a4a3, v6.10 (slab).
    {"BUDDY": (~0x80 & _U32,), "OFFLINE": (~0x100 & _U32,), "HUGETLB": (~0x800 & _U32,), "SLAB": (~0x1000 & _U32,)},
    {  # Linux 8db00ad56461, v6.11
        "BUDDY": (~0x40000000 & _U32,),
        "OFFLINE": (~0x20000000 & _U32,),
        "HUGETLB": (~0x04000000 & _U32,),
        "SLAB": (~0x02000000 & _U32,),
    },
    {  # Linux 4ffca5a96678, v6.12; v6.16 (unaccepted)
        "BUDDY": (0xF0 << 24,),
        "OFFLINE": (0xF1 << 24,),
        "HUGETLB": (0xF4 << 24,),
        "SLAB": (0xF5 << 24,),
        "UNACCEPTED": (0xF7 << 24,),
    },
)

_TYPES: dict[str, tuple[int, str | None]] = {
    "BUDDY": (FREE, None),
    "OFFLINE": (0, OFFLINE),
    "HUGETLB": (USER, None),
    "SLAB": (USER | FREE, None),
    "UNACCEPTED": (0, UNACCEPTED),
}
"""Page types: the kinds of pages that are in doubt with each, or the fact that is ignored."""


def check_facts(facts: Facts, bits: int) -> list[Finding]:
    """Hold the facts about struct page against what every kernel has in common.

    Parameters
    ----------
    facts : Facts
    bits : {32, 64}
        Word size of the kernel.
    """
    return [*_flag_findings(facts), *_type_findings(facts), *_offset_findings(facts, bits), *_missing(facts)]


def _flag_findings(facts: Facts) -> Iterator[Finding]:
    bits = {name: bit for name in _FLAGS if (bit := facts.get(f"NUMBER(PG_{name})")) is not None}
    for name, bit in bits.items():
        if not 0 <= bit < _N_FLAGS:
            yield _flag_finding(name, f"NUMBER(PG_{name}) is {bit}, which no flag has")
    head = facts.get("NUMBER(PG_head_mask)")
    if head is not None and head > 0:
        bits["head"] = head.bit_length() - 1
    for one, other in combinations(bits, 2):
        if bits[one] == bits[other]:
            for name in {one, other} - {"head"}:
                yield _flag_finding(name, f"PG_{one} and PG_{other} are both flag {bits[one]}")
    known = [name for name in _FLAG_ORDER if name in bits]
    wrong = [pair for pair in combinations(known, 2) if bits[pair[0]] > bits[pair[1]]]
    n_wrong = {name: sum(name in pair for pair in wrong) for name in known}
    for name in known:
        # Who is out of order with most of the others; of two that are so with each other alone, both may be.
        if n_wrong[name] and n_wrong[name] == max(n_wrong.values()):
            yield _flag_finding(name, f"PG_{name} is flag {bits[name]}, which isn't its place among the others")
    if {"swapbacked", "hwpoison"} <= bits.keys() and facts.version[:2] <= _NEWEST_FLAGS:
        between = bits["hwpoison"] - bits["swapbacked"]
        if between not in _AFTER_SWAPBACKED:
            yield _flag_finding("hwpoison", f"PG_hwpoison is flag {bits['hwpoison']}, {between} after PG_swapbacked")


def _flag_finding(name: str, reason: str) -> Finding:
    return Finding(int(_FLAGS[name]), reason, HWPOISON if name == "hwpoison" else None)


def _type_findings(facts: Facts) -> Iterator[Finding]:
    values = {name: facts.get(f"NUMBER(PAGE_{name}_MAPCOUNT_VALUE)") for name in _TYPES}
    known = {name: value & _U32 for name, value in values.items() if value is not None}
    schemes = {name: _scheme(name, value, facts.version) for name, value in known.items()}
    for name, scheme in schemes.items():
        level, ignored = _TYPES[name]
        if scheme is None:
            yield Finding(level, f"NUMBER(PAGE_{name}_MAPCOUNT_VALUE) is {known[name]:#x}, which is none", ignored)
    found = {scheme for scheme in schemes.values() if scheme is not None}
    if len(found) > 1 or len(set(known.values())) < len(known):
        for name, value in known.items():
            level, ignored = _TYPES[name]
            yield Finding(level, f"page types don't fit together, as {name.lower()} with {value:#x}", ignored)


def _scheme(name: str, value: int, version: tuple[int, int, int]) -> int | None:
    """Return the scheme in which a page type has a value, None if that is in none."""
    for i, scheme in enumerate(_SCHEMES):
        if value in scheme.get(name, ()):
            return i
    is_new = version[:2] > _NEWEST_KNOWN and value >> 24 >= 0xF0 and not value & 0xFFFFFF
    return len(_SCHEMES) - 1 if is_new else None


def _offset_findings(facts: Facts, bits: int) -> Iterator[Finding]:
    """Fields are aligned to their size, and the main ones never share bytes."""
    word = bits // 8
    nbytes = facts.get("SIZE(page)") or 0
    fields = {
        "flags": (("OFFSET(page.flags)",), word, ALL),
        "mapping": (("OFFSET(page.mapping)",), word, CACHE | USER),
        "private": (("OFFSET(page.private)",), word, CACHE | FREE),
        "_mapcount": (("OFFSET(page._mapcount)",), 4, CACHE | USER | FREE),
        "_refcount": (("OFFSET(page._refcount)", "OFFSET(page._count)"), 4, 0),
        "lru": (("OFFSET(page.lru)",), 2 * word, 0),
        "compound_head": (("OFFSET(page.compound_info)", "OFFSET(page.compound_head)"), word, CACHE | USER),
    }
    known = {
        name: (at, size, int(level))
        for name, (keys, size, level) in fields.items()
        if (at := facts.first(keys)) is not None
    }
    for name, (at, size, level) in known.items():
        if at % min(size, word) or not 0 <= at <= nbytes - size:
            yield from _field_findings(name, level, f"{name} can't be at byte {at} of a struct page of {nbytes}")
    if (
        facts.version[:2] <= _NEWEST_KNOWN
        and known.get("lru", (0,))[0] == word
        and {"mapping", "private"} <= known.keys()
    ):
        # Linux 4da1984edbbe, v4.18: flags, lru, mapping, index, private.
        (mapping, *_), (private, *_) = known["mapping"], known["private"]
        if private - mapping != 2 * word or mapping != 3 * word:
            reason = f"after lru, mapping and private can't be at bytes {mapping} and {private} of struct page"
            yield Finding(int(CACHE | USER | FREE), reason)
    stop = max((at + size for at, size, _ in known.values()), default=0)
    if nbytes - stop > MAX_TAIL_NBYTES:
        yield Finding(ALL, f"SIZE(page) is {nbytes}, but its last known field ends at byte {stop}")
    # page.flags comes first in every kernel.
    if known.get("flags", (0,))[0] != 0:
        yield Finding(ALL, f"OFFSET(page.flags) is {known['flags'][0]}, but it comes first in every kernel")
    yield from _shared_bytes(known)


def _shared_bytes(known: dict[str, tuple[int, int, int]]) -> Iterator[Finding]:
    """Judge fields of struct page that would lie on each other; of each the offset, size, and levels that read it."""
    for one, other in combinations(known, 2):
        # Both lie in the same union (Linux 1d798ca3f164, v4.4).
        if {one, other} == {"lru", "compound_head"}:
            continue
        (at, size, level), (other_at, other_size, other_level) = known[one], known[other]
        if at < other_at + other_size and other_at < at + size:
            reason = f"{one} and {other} would share bytes of struct page, at {at} and {other_at}"
            yield from _field_findings(one, level | other_level, reason)
            if "_mapcount" in (one, other):
                yield from _field_findings("_mapcount", level | other_level, reason)


def _field_findings(name: str, level: int, reason: str) -> Iterator[Finding]:
    if level:
        yield Finding(level, reason)
    if name == "_mapcount":
        yield Finding(0, reason, OFFLINE)
        yield Finding(0, reason, UNACCEPTED)


def _missing(facts: Facts) -> Iterator[Finding]:
    """Yield what is not told, and kernels that tell of _refcount (Linux 0139aa7b7fa1, v4.6) always tell as well."""
    if "OFFSET(page._refcount)" not in facts:
        return
    if "OFFSET(page._mapcount)" not in facts:
        yield Finding(USER | FREE, "the kernel doesn't tell where _mapcount is, which holds the page type")
    for name in ("lru", "private", "swapcache"):
        if f"NUMBER(PG_{name})" not in facts:
            yield Finding(CACHE, f"the kernel doesn't tell the number of PG_{name}")
    if "NUMBER(PG_slab)" not in facts and "NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)" not in facts:
        yield Finding(USER | FREE, "the kernel doesn't tell how it marks slab pages")
