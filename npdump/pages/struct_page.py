# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout of struct page, and where each kernel keeps what decides about a page.

References
----------
Linux ``include/linux/mm_types.h``, ``include/linux/page-flags.h`` and ``kernel/vmcore_info.c`` in the named releases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npdump.errors import FactError
from npdump.kernel.kernel import struct_dtype

if TYPE_CHECKING:
    from npdump.arrays import U32, Bool
    from npdump.facts import Facts
    from npdump.layouts import ByteOrder

__all__ = ["StructPage", "TypeTest", "describe"]

MAX_STRUCT_NBYTES = 512
"""Bound on a plausible SIZE(page); 64 in most kernels, 32 to 80 in others."""

MAX_BUDDY_ORDER = 20
"""No kernel has free blocks of this order, or of a higher one."""

DEFAULT_BUDDY_ORDER = 11
"""Half-open bound on the order of a free block where LENGTH(zone.free_area) is not told: that of most kernels."""

_U32 = (1 << 32) - 1
_WORD = (1 << 64) - 1

_PG_COMPOUND = 1 << 14
"""PG_compound, later PG_head, where PG_head_mask isn't exported (before Linux 3.17)."""


class TypeTest(NamedTuple):
    """Whether ``_mapcount`` (as uint32) holds a page type: it equals ``value`` in the bits of ``mask``."""

    value: int
    mask: int = _U32

    def matches(self, mapcounts: U32) -> Bool:
        """Return which of them hold the type."""
        return (mapcounts if self.mask == _U32 else mapcounts & np.uint32(self.mask)) == np.uint32(self.value)

    @classmethod
    def of(cls, exported: int | None) -> TypeTest | None:
        """Make the test for an exported ``PAGE_*_MAPCOUNT_VALUE``, None if the kernel exports none.

        Since Linux 4ffca5a96678, v6.12, the type is the top byte and the low 24 bits are free for other use.
        """
        if exported is None:
            return None
        value = exported & _U32
        in_top_byte = value >> 24 >= 0xF0 and not value & 0xFFFFFF
        return cls(value, 0xFF000000 if in_top_byte else _U32)


class StructPage(NamedTuple):
    """What to look at in struct page.

    Attributes
    ----------
    dtype : dtype
        Of one struct page, with those of the fields ``flags``, ``mapping``, ``private``, ``mapcount``, ``compound``,
        ``order`` and ``dtor`` that the kernel has, and of ``refcount``, ``next`` and ``prev`` (its list links), which
        only checks look at. ``order`` and ``dtor`` are meant for the *second* page of a compound page.
    lru, private, head, hwpoison, swapcache, swapbacked, slab : int
        Masks for ``flags``; 0 if the kernel has no such flag (or doesn't say).
    buddy, offline, slab_type, unaccepted, hugetlb_type : TypeTest or None
        Page types.
    buddy_flag : int
        Mask for ``flags`` of the first page of a free block, on kernels without a page type for it.
    hugetlb_flag : int
        Mask for the second page's ``flags``.
    hugetlb_dtor : int or None
        Value of the second page's ``dtor`` that marks hugetlb: a number, or the address of a function.
    order_mask : int
        Bits of ``order`` that hold the order of a compound page.
    max_buddy_order : int
        Half-open bound on the order of a free block.
    """

    dtype: np.dtype
    lru: int
    private: int
    head: int
    hwpoison: int
    swapcache: int
    swapbacked: int
    slab: int
    buddy_flag: int
    hugetlb_flag: int
    hugetlb_dtor: int | None
    order_mask: int
    max_buddy_order: int
    buddy: TypeTest | None = None
    offline: TypeTest | None = None
    slab_type: TypeTest | None = None
    unaccepted: TypeTest | None = None
    hugetlb_type: TypeTest | None = None

    @property
    def nbytes(self) -> int:
        """Size of struct page in bytes."""
        return self.dtype.itemsize

    @property
    def all_flags(self) -> int:
        """All flags of a page's own that are looked for."""
        named = self.lru | self.private | self.head | self.hwpoison
        return named | self.swapcache | self.swapbacked | self.slab | self.buddy_flag

    @property
    def tells_free(self) -> bool:
        """Whether struct page itself says what is free."""
        return self.buddy is not None or bool(self.buddy_flag)

    def missing(self, level: int) -> list[str]:
        """Name what the kernel doesn't tell although the dump level asks for it; those pages will be kept."""
        gaps = []
        if level & 16 and not self.tells_free:
            gaps.append("PAGE_BUDDY_MAPCOUNT_VALUE: free pages can't be told apart and are kept")
        if level & 16 and self.tells_free and "private" not in (self.dtype.names or ()):
            gaps.append("OFFSET(page.private): the size of free blocks is unknown, free pages are kept")
        if self.head and "order" not in (self.dtype.names or ()):
            gaps.append("the order of compound pages: the tails of huge pages are kept")
        return gaps


def _flag(facts: Facts, key: str, default: int | None = None) -> int:
    """Return the mask of the flag whose bit number VMCOREINFO gives."""
    bit = facts.get(key, default)
    return 1 << bit if bit is not None and 0 <= bit < 64 else 0


def _is_order_in_flags(facts: Facts) -> bool:
    # Linux ebc1baf5c9b4, v6.6: order and hugetlb mark moved to the flags of the second page. The mark became a page
    # type in v6.9.
    return "NUMBER(PG_hugetlb)" in facts or "NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)" in facts


def _compound_fields(facts: Facts, nbytes: int, word: str) -> dict[str, tuple[str, int]]:
    """Return format and offset of ``order`` and ``dtor`` within the second page of a compound page."""
    if _is_order_in_flags(facts):
        return {}
    folio_order, folio_dtor = facts.get("OFFSET(folio._folio_order)"), facts.get("OFFSET(folio._folio_dtor)")
    if folio_order is not None and folio_dtor is not None:
        # Linux 1c5509be58f6, v6.3: offsets within struct folio, which spans the first pages.
        return {"order": ("u1", folio_order - nbytes), "dtor": ("u1", folio_dtor - nbytes)}
    order, dtor = facts.get("OFFSET(page.compound_order)"), facts.get("OFFSET(page.compound_dtor)")
    if order is None or dtor is None:
        lru = facts.get("OFFSET(page.lru)")
        if lru is None or _has_tail_mark(facts):
            return {}
        # Before Linux 4.0 gave them fields, the second page's list links held them.
        dtor = lru + (facts.get("OFFSET(list_head.next)") or 0)
        order = lru + (facts.get("OFFSET(list_head.prev)") or int(word[1:]))
    # They were words until v4.4, and shrank from u16 to u8 in v4.16: it's seen from where they lie.
    kind = {1: "u1", 2: "u2"}.get(abs(order - dtor), word)
    return {"order": (kind, order), "dtor": (kind, dtor)}


def _has_tail_mark(facts: Facts) -> bool:
    return "OFFSET(page.compound_head)" in facts or "OFFSET(page.compound_info)" in facts


def _hugetlb_dtor(facts: Facts, kind: np.dtype[Any]) -> int | None:
    # Linux f1e61557f023, v4.4: what was the address of a function became a number.
    return facts.get("NUMBER(HUGETLB_PAGE_DTOR)" if kind.itemsize < 4 else "SYMBOL(free_huge_page)")


def describe(facts: Facts, byte_order: ByteOrder, bits: int) -> StructPage:
    """Work out the layout of struct page from the facts.

    Parameters
    ----------
    facts : Facts
    byte_order : {"<", ">"}
    bits : {32, 64}
        Word size of the kernel.

    Raises
    ------
    FactError
        If the size of struct page or one of its main fields is not known or is not plausible.
    """
    dtype, order_mask = _layout(facts, byte_order, bits)
    names = dtype.names or ()
    max_buddy_order = facts.get("LENGTH(zone.free_area)") or 0
    if not 0 < max_buddy_order <= MAX_BUDDY_ORDER:
        max_buddy_order = DEFAULT_BUDDY_ORDER
    return StructPage(
        dtype=dtype,
        order_mask=order_mask,
        max_buddy_order=max_buddy_order,
        hugetlb_dtor=_hugetlb_dtor(facts, dtype["dtor"]) if "dtor" in names else None,
        **_flags(facts, bits),
        **(_page_types(facts) if "mapcount" in names else {}),
    )


def _layout(facts: Facts, byte_order: ByteOrder, bits: int) -> tuple[np.dtype[np.void], int]:
    """Return the dtype of struct page, and the bits of its field ``order`` that count."""
    why = "to tell the pages apart"
    nbytes = facts.need("SIZE(page)", why)
    if not 16 <= nbytes <= MAX_STRUCT_NBYTES:
        raise FactError(f"VMCOREINFO says SIZE(page)={nbytes}, which no kernel has: it is damaged")
    word_nbytes = bits // 8
    word = f"u{word_nbytes}"
    fields: dict[str, tuple[str, int]] = {
        "flags": (word, facts.need("OFFSET(page.flags)", why)),
        "mapping": (word, facts.need("OFFSET(page.mapping)", why)),
    }
    lru = facts.get("OFFSET(page.lru)")
    if lru is not None and not 0 <= lru <= nbytes - 2 * word_nbytes:
        lru = None  # only checks look at it
    optional = {
        "private": (word, facts.get("OFFSET(page.private)")),
        "mapcount": ("u4", facts.get("OFFSET(page._mapcount)")),
        # Linux v7.1 renamed compound_head to compound_info; bit 0 still marks a tail.
        "compound": (word, facts.first(("OFFSET(page.compound_info)", "OFFSET(page.compound_head)"))),
        "next": (word, lru),
        "prev": (word, None if lru is None else lru + word_nbytes),
    }
    refcount = facts.first(("OFFSET(page._refcount)", "OFFSET(page._count)"))
    if refcount is not None and 0 <= refcount <= nbytes - 4:
        optional["refcount"] = ("u4", refcount)
    fields |= {name: (kind, offset) for name, (kind, offset) in optional.items() if offset is not None}
    compound = _compound_fields(facts, nbytes, word)
    fields |= compound
    order_mask = 0xFFFF if not compound or compound["order"][0] in ("u1", "u2") else _WORD
    if _is_order_in_flags(facts):
        fields["order"] = fields["flags"]
        order_mask = 0xFF
    return struct_dtype("page", nbytes, fields, byte_order), order_mask


def _flags(facts: Facts, bits: int) -> dict[str, Any]:
    """Return the masks of the page flags, by the names of `StructPage`'s attributes."""
    private, swapcache = facts.get("NUMBER(PG_private)"), facts.get("NUMBER(PG_swapcache)")
    swapbacked = _flag(facts, "NUMBER(PG_swapbacked)")
    # Linux 6326fec1122c, v4.10: PG_swapcache is another flag's bit as well, which PG_swapbacked tells from it.
    is_shared = private is not None and swapcache is not None and swapcache < private
    head = facts.get("NUMBER(PG_head_mask)")
    if head is None:
        head = 0 if _has_tail_mark(facts) else _PG_COMPOUND
    return {
        "lru": _flag(facts, "NUMBER(PG_lru)", 5),
        "private": _flag(facts, "NUMBER(PG_private)", 11),
        "head": head & ((1 << bits) - 1),
        "hwpoison": _flag(facts, "NUMBER(PG_hwpoison)"),
        "swapcache": 0 if is_shared and not swapbacked else _flag(facts, "NUMBER(PG_swapcache)", 15),
        "swapbacked": swapbacked,
        # Linux 46df8e73a4a3, v6.10: slab became a page type; bit 7 belongs to another flag since.
        "slab": 0 if "NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)" in facts else _flag(facts, "NUMBER(PG_slab)", 7),
        # Linux 5f24ce5fd34c, v2.6.38, made a page type of the flag.
        "buddy_flag": 0 if "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)" in facts else _flag(facts, "NUMBER(PG_buddy)"),
        "hugetlb_flag": 0 if "NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)" in facts else _flag(facts, "NUMBER(PG_hugetlb)"),
    }


def _page_types(facts: Facts) -> dict[str, Any]:
    """Return the tests for page types, by the names of `StructPage`'s attributes."""
    names = {
        "buddy": "BUDDY",
        "offline": "OFFLINE",
        "slab_type": "SLAB",
        "unaccepted": "UNACCEPTED",
        "hugetlb_type": "HUGETLB",
    }
    return {name: TypeTest.of(facts.get(f"NUMBER(PAGE_{key}_MAPCOUNT_VALUE)")) for name, key in names.items()}
