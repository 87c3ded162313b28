# SPDX-License-Identifier: GPL-2.0-or-later
"""What struct pages say, in words: the names of flags, the reasons for traits, what a word holds that several share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from npdump.errors import AddressError, FactError
from npdump.kernel.probe import embedded_types
from npdump.pages.policy import Trait

if TYPE_CHECKING:
    from collections.abc import Mapping

    from npdump.facts import Facts
    from npdump.kernel.facts.types import Types
    from npdump.kernel.kernel import Kernel
    from npdump.observer import Observer
    from npdump.pages.struct_page import StructPage

__all__ = ["fields_of", "flag_names", "meanings", "page_flags", "reasons"]

_MAX_FLAGS = 64
"""Bits of the word that has them."""

_WITHOUT_ENUM = 22
"""Bits of ``flags`` that are flags, where the kernel's own list isn't known; the rest are zone, node and section."""

_KSM = 3
"""Low bits of ``mapping`` of a page that KSM merged (Linux PAGE_MAPPING_KSM)."""

_TYPED = 1 << 31
_U32_MINUS_1 = (1 << 32) - 1


def page_flags(kernel: Kernel, types: Types | None, observer: Observer) -> Mapping[str, int]:
    """Return the bit numbers of the page flags by name, from the best source that there is.

    Parameters
    ----------
    kernel : Kernel
    types : Types or None
        Of the kernel's debug information, if it was given.
    observer : Observer
        Hears why some flags have no names.
    """
    if types is not None:
        return types.enums.get("pageflags", {})
    try:
        own = embedded_types(kernel)
    except (FactError, AddressError) as error:
        observer.warn(f"{error}: some flags have no names")
        own = None
    if own is not None and "pageflags" in own[1].enums:
        return own[1].enums["pageflags"]
    return _exported_flags(kernel.facts)


def _exported_flags(facts: Facts) -> dict[str, int]:
    names = {key[7:-1]: fact.value for key, fact in facts.items() if key.startswith("NUMBER(PG_")}
    head = names.pop("PG_head_mask", 0)
    if head > 0:
        names["PG_head"] = head.bit_length() - 1
    return names


def fields_of(record: Any, traits: int) -> dict[str, int]:
    """Return the fields of a struct page as numbers; of two that share a place, the one that a page of its kind has."""
    places = record.dtype.fields
    shared = "next" if traits & Trait.TAIL else "compound"
    is_shared = {"next", "compound"} <= places.keys() and places["next"][1] == places["compound"][1]
    left_out = ("order", "dtor", shared) if is_shared else ("order", "dtor")
    return {name: int(record[name]) for name in places if name not in left_out}


def flag_names(flags: int, traits: int, page: StructPage, enum: Mapping[str, int]) -> tuple[str, ...]:
    """Name the flags that are set; one without a name is ``bit N``.

    Several names may stand for one bit (PG_owner_priv_1 and PG_checked): the first is that of general use. Of a tail
    only PG_hwpoison is the page's own: the others, and the order, are of the whole block (Linux
    include/linux/page-flags.h, PF_SECOND).
    """
    if traits & Trait.TAIL:
        flags &= page.hwpoison
    names: dict[int, str] = {}
    for name, bit in enum.items():
        names.setdefault(bit, name)
    n_flags = enum.get("__NR_PAGEFLAGS", max(enum.values(), default=_WITHOUT_ENUM - 1) + 1)
    return tuple(names.get(bit, f"bit {bit}") for bit in range(min(n_flags, _MAX_FLAGS)) if flags >> bit & 1)


def reasons(traits: int, fields: Mapping[str, int], page: StructPage, order: int) -> dict[str, str]:
    """Return what the fields of a struct page say, each with the reason.

    Parameters
    ----------
    traits : int
        Bits of `Trait`.
    fields : mapping of str to int
    page : StructPage
    order : int
        Of the block that begins with the page.
    """
    on_lru = bool(fields["flags"] & page.lru)
    is_free = "it is on a free list"
    if page.tells_free:
        is_free = (
            "PG_buddy is set" if page.buddy_flag else f"_mapcount is {fields.get('mapcount', 0):#x}, as in free blocks"
        )
    mapcount = f"_mapcount is {fields['mapcount']:#x}" if "mapcount" in fields else ""
    words = {
        Trait.TAIL: f"compound_head is {fields.get('compound', 0):#x}, bit 0 is set",
        Trait.FREE: f"{is_free}; its order is {order}",
        Trait.BAD_ORDER: f"{mapcount}, that of a free block, but private, its order, is {fields.get('private', 0):#x}",
        Trait.UNACCEPTED: mapcount,
        Trait.CACHE: "PG_lru is set" if on_lru else "PG_swapcache is set",
        Trait.PRIVATE: "PG_private is set",
        Trait.ANON: f"mapping is {fields['mapping']:#x}, bit 0 is set",
        Trait.HUGETLB: mapcount if page.hugetlb_type else "the second page of the block says so",
        Trait.HWPOISON: "PG_hwpoison is set",
        Trait.OFFLINE: mapcount,
    }
    if traits & Trait.TAIL:
        # The other words of tails hold the order, map counts and pins of the whole (Linux include/linux/mm_types.h).
        traits &= Trait.TAIL | Trait.HWPOISON
    elif traits & Trait.ANON:
        traits &= ~(Trait.CACHE | Trait.PRIVATE)
    return {trait.name: words[trait] for trait in Trait if traits & trait}


def meanings(
    traits: int, fields: Mapping[str, int], page: StructPage, *, is_slab: bool, is_table: bool
) -> dict[str, str]:
    """Say what the words of a struct page hold that mean one thing in one kind of page, and another in others.

    References
    ----------
    Linux ``include/linux/mm_types.h``, ``mm/slab.h``.
    """
    mapping, mapcount = fields["mapping"], fields.get("mapcount", _U32_MINUS_1)
    if traits & Trait.TAIL:
        others = "the whole block's, not the page's"
        said = dict.fromkeys(("mapping", "private", "next", "prev"), others) | {"flags": "only PG_hwpoison is its own"}
        return {name: text for name, text in said.items() if name in fields}
    said = {"mapcount": "a page type"} if _TYPED <= mapcount < _U32_MINUS_1 else {}
    if is_slab or is_table:
        said |= dict.fromkeys(("mapping", "private", "next", "prev"), "the slab's own" if is_slab else "its table's")
    elif traits & (Trait.FREE | Trait.BAD_ORDER):
        said["private"] = "the order"
    elif traits & (Trait.CACHE | Trait.ANON) and mapping:
        if traits & Trait.ANON:
            said["mapping"] = "a node of KSM's tree" if mapping & _KSM == _KSM else "anon_vma, with bit 0 set"
        else:
            said["mapping"] = "address_space"
        is_swapped = fields["flags"] & page.swapcache and fields["flags"] & (page.swapbacked or page.swapcache)
        if is_swapped:
            said["private"] = "a swap entry"
        elif traits & Trait.PRIVATE:
            said["private"] = "the file system's own"
    return {name: text for name, text in said.items() if name in fields}


def matches(mapcount: int, test: Any) -> bool:
    """Return whether ``_mapcount`` is a page type, a `TypeTest`; False if that is None."""
    return test is not None and int(np.uint32(mapcount) & np.uint32(test.mask)) == test.value
