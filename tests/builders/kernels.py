# SPDX-License-Identifier: GPL-2.0-or-later
"""How each kernel generation lays out struct page and what its VMCOREINFO tells about it.

The numbers are those of Debian's kernels of that age (bit numbers differ between configurations; a filter may only use
the exported ones).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

PAGE_SIZE = 4096
STRUCT_PAGE_NBYTES = 64
SECTION_SIZE_BITS = 27
PAGES_PER_SECTION = 1 << (SECTION_SIZE_BITS - 12)
MEM_SECTION_NBYTES = 16
MAX_ORDER_LENGTH = 11

#: Byte offsets in struct page, the same in every generation that is modelled here.
FLAGS, COMPOUND, MAPPING, PRIVATE, MAPCOUNT, REFCOUNT = 0, 8, 24, 40, 48, 52
#: Of the second page of a compound page, up to 6.5.
DTOR, ORDER = 16, 17


@dataclass(frozen=True)
class Kernel:
    """One generation of struct page.

    `flags` are bit numbers by name without "PG_"; `mapcount` holds the page types' values of _mapcount as signed
    32-bit numbers. `order_at` says where the second page has the order: "u8" (4.16 to 6.5) or "flags" (6.6 on).
    `hugetlb_by` is "dtor", "folio_dtor", "flag" or "type"; `compound` the exported name of the word that marks a tail.
    """

    release: str
    flags: dict[str, int]
    mapcount: dict[str, int]
    order_at: str
    hugetlb_by: str
    compound: str = "compound_head"
    n_free_area: int = MAX_ORDER_LENGTH
    extra: dict[str, int] = field(default_factory=dict)

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor number."""
        major, minor = self.release.split(".")[:2]
        return int(major), int(minor)

    def bit(self, *names: str) -> int:
        """OR of the named page flags; a flag that this generation doesn't have is an error."""
        return sum(1 << self.flags[name] for name in names)

    def vmcoreinfo(self) -> dict[str, int | str]:
        """The keys that describe struct page, in the note's own spelling."""
        keys: dict[str, int | str] = {
            "SIZE(page)": STRUCT_PAGE_NBYTES,
            "SIZE(mem_section)": MEM_SECTION_NBYTES,
            "SIZE(list_head)": 16,
            "SIZE(nodemask_t)": 128,
            "OFFSET(mem_section.section_mem_map)": 0,
            "OFFSET(page.flags)": FLAGS,
            "OFFSET(page._refcount)": REFCOUNT,
            "OFFSET(page.mapping)": MAPPING,
            "OFFSET(page.lru)": 8,
            "OFFSET(page._mapcount)": MAPCOUNT,
            "OFFSET(page.private)": PRIVATE,
            f"OFFSET(page.{self.compound})": COMPOUND,
            "OFFSET(list_head.next)": 0,
            "OFFSET(list_head.prev)": 8,
            "LENGTH(zone.free_area)": self.n_free_area,
        }
        if self.hugetlb_by == "dtor":
            keys |= {"OFFSET(page.compound_dtor)": DTOR, "OFFSET(page.compound_order)": ORDER}
        if self.hugetlb_by == "folio_dtor":
            keys |= {
                "OFFSET(folio._folio_dtor)": STRUCT_PAGE_NBYTES + DTOR,
                "OFFSET(folio._folio_order)": STRUCT_PAGE_NBYTES + ORDER,
            }
        for name, bit in self.flags.items():
            if name == "head":
                keys["NUMBER(PG_head_mask)"] = 1 << bit
            elif name != "waiters":
                keys[f"NUMBER(PG_{name})"] = bit
        for name, value in self.mapcount.items():
            keys[f"NUMBER(PAGE_{name.upper()}_MAPCOUNT_VALUE)"] = value
        return keys | self.extra

    def without(self, *names: str) -> Kernel:
        """The same generation built without some flags or page types."""
        return replace(
            self,
            flags={k: v for k, v in self.flags.items() if k not in names},
            mapcount={k: v for k, v in self.mapcount.items() if k not in names},
        )


_OLD_FLAGS = {"lru": 4, "private": 13, "swapcache": 10, "swapbacked": 19, "slab": 9, "head": 16, "hwpoison": 22}
_MID_FLAGS = {
    "lru": 5,
    "private": 15,
    "swapcache": 12,
    "swapbacked": 19,
    "slab": 11,
    "head": 6,
    "hwpoison": 22,
    "waiters": 7,
}
_NEW_FLAGS = {"lru": 5, "private": 14, "swapcache": 10, "swapbacked": 17, "head": 6, "hwpoison": 20, "waiters": 7}
_OLD_TYPES = {"buddy": -129, "offline": -257}
_TYPE_CODES = {"buddy": 0xF0, "offline": 0xF1, "hugetlb": 0xF4, "slab": 0xF5}
_TOP_BYTE = {name: (code << 24) - (1 << 32) for name, code in _TYPE_CODES.items()}

KERNELS = {
    "5.10": Kernel("5.10.0-32-amd64", _OLD_FLAGS, _OLD_TYPES, "u8", "dtor", extra={"NUMBER(HUGETLB_PAGE_DTOR)": 2}),
    "6.1": Kernel("6.1.0-56-amd64", _OLD_FLAGS, _OLD_TYPES, "u8", "dtor", extra={"NUMBER(HUGETLB_PAGE_DTOR)": 2}),
    # Linux 6.3 moved order and destructor to struct folio.
    "6.4": Kernel("6.4.0-4-amd64", _OLD_FLAGS, _OLD_TYPES, "u8", "folio_dtor", extra={"NUMBER(HUGETLB_PAGE_DTOR)": 2}),
    # Linux 6.6: the order is the low byte of the second page's flags, hugetlb one of its bits.
    "6.6": Kernel("6.6.9-amd64", _MID_FLAGS | {"hugetlb": 8}, _OLD_TYPES, "flags", "flag"),
    # Linux 6.9: hugetlb is a page type of the head.
    "6.9": Kernel("6.9.7-amd64", _MID_FLAGS, _OLD_TYPES | {"hugetlb": -2049}, "flags", "type"),
    # Linux 6.12: the page type is the top byte.
    "6.12": Kernel("6.12.95-amd64", _NEW_FLAGS, _TOP_BYTE, "flags", "type"),
    # Linux 6.16 exports unaccepted; 7.1 renames compound_head, whose value becomes a mask.
    "7.2": Kernel(
        "7.2.13-amd64",
        _NEW_FLAGS | {"hwpoison": 21},
        _TOP_BYTE | {"unaccepted": (0xF7 << 24) - (1 << 32)},
        "flags",
        "type",
        compound="compound_info",
    ),
}
