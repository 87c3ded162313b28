# SPDX-License-Identifier: GPL-2.0-or-later
"""struct pages from a list of blocks: what kind of pages lie where, in a kernel generation's own layout."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .kernels import (
    COMPOUND,
    DTOR,
    FLAGS,
    MAPCOUNT,
    MAPPING,
    ORDER,
    PAGES_PER_SECTION,
    PRIVATE,
    REFCOUNT,
    STRUCT_PAGE_NBYTES,
    Kernel,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

POINTER = 0xFFFF888012345600  # of an address_space or anon_vma: only its low bits matter
SWAP_ENTRY = 0x1234  # of the first swap area
TAIL_MAPPING = 0xDEAD000000000400
HUGETLB_DTOR, COMPOUND_DTOR = 2, 1

#: Page flags and the low bits of `mapping` (None: no mapping) of each kind that needs no more than these.
SIMPLE = {
    "kernel": ((), None),
    "lru": (("lru",), 0),  # page cache
    "private": (("lru", "private"), 0),  # page cache with buffers
    "tmpfs": (("lru", "swapbacked"), 0),
    "swapcache": (("swapcache", "swapbacked"), None),  # not on a list yet
    "owner": (("swapcache",), None),  # the same bit with its other meaning, PG_owner_priv_1
    "anon": (("lru", "swapbacked"), 1),
    "anon_swapcache": (("lru", "swapbacked", "swapcache"), 1),
    "anon_unlisted": (("swapbacked",), 1),
    "ksm": (("lru", "swapbacked"), 3),
    "movable": ((), 2),
}


@dataclass(frozen=True)
class Block:
    """2**order pages of one kind from `pfn` on.

    `fields` overrides words of the first struct page by name (flags, mapping, private, mapcount, compound, which is
    the link to the next page in a list as well, prev, refcount); `poison` lists the pages (counted from `pfn`) that
    also have PG_hwpoison; `stale` fills what follows a free or unaccepted head with the remains of anonymous pages, as
    the kernel leaves it; `hvo` makes the struct pages of a hugetlb page alias those of its first 64. `count` repeats
    the block.
    """

    pfn: int
    kind: str
    order: int = 0
    count: int = 1
    fields: dict[str, int] = field(default_factory=dict)
    poison: Sequence[int] = ()
    stale: bool = False
    hvo: bool = False

    @property
    def n_pages(self) -> int:
        """Pages that all repetitions cover."""
        return self.count << self.order


def _page(
    flags: int = 0,
    mapping: int = 0,
    private: int = 0,
    mapcount: int = -1,
    compound: int = 0,
    refcount: int = 1,
    prev: int = 0,
) -> bytearray:
    page = bytearray(STRUCT_PAGE_NBYTES)
    struct.pack_into("<Q", page, FLAGS, flags)
    struct.pack_into("<2Q", page, COMPOUND, compound, prev)
    struct.pack_into("<Q", page, MAPPING, mapping)
    struct.pack_into("<Q", page, PRIVATE, private)
    struct.pack_into("<I", page, MAPCOUNT, mapcount & 0xFFFFFFFF)
    struct.pack_into("<i", page, REFCOUNT, refcount)
    return page


def _head(kernel: Kernel, block: Block) -> bytearray:
    """The first struct page of a block."""
    kind = block.kind
    if kind in SIMPLE:
        names, low_bits = SIMPLE[kind]
        words = {"flags": kernel.bit(*names), "mapping": 0 if low_bits is None else POINTER | low_bits}
        if kind.endswith("swapcache"):
            words["private"] = SWAP_ENTRY
    elif kind == "free":
        words = {"mapcount": kernel.mapcount["buddy"], "private": block.order, "refcount": 0}
    elif kind in ("unaccepted", "offline"):
        words = {"mapcount": kernel.mapcount[kind], "refcount": 0 if kind == "unaccepted" else 1}
    elif kind == "slab":
        # Linux 6.2: slab reuses the word at `mapping`, whose bit 0 then means nothing.
        words = {"mapping": POINTER | 1 if kernel.version >= (6, 2) else 0}
        words |= {"flags": kernel.bit("slab")} if "slab" in kernel.flags else {"mapcount": kernel.mapcount["slab"]}
    elif kind == "hugetlb":
        words = {"mapping": POINTER | 1}
        if kernel.hugetlb_by == "type":
            words["mapcount"] = kernel.mapcount["hugetlb"]
    else:
        raise ValueError(f"unknown kind of page {kind!r}")
    if block.order and kind not in ("free", "unaccepted"):
        words["flags"] = words.get("flags", 0) | kernel.bit("head")
    return _page(**words | block.fields)


def _tail(kernel: Kernel, block: Block, head_vaddr: int, index: int) -> bytearray:
    """A later struct page of a compound page; the second one carries order and destructor."""
    if kernel.compound == "compound_info":
        # Linux 7.1: a mask that leads from the tail's address to the head's.
        compound = -(STRUCT_PAGE_NBYTES << block.order) & (1 << 64) - 1 | 1
    else:
        compound = head_vaddr | 1
    page = _page(compound=compound, mapping=TAIL_MAPPING)
    if index == 1:
        if kernel.order_at == "u8":
            page[ORDER] = block.order
            page[DTOR] = HUGETLB_DTOR if block.kind == "hugetlb" else COMPOUND_DTOR
        else:
            flags = block.order
            if block.kind == "hugetlb" and kernel.hugetlb_by == "flag":
                flags |= kernel.bit("hugetlb")
            struct.pack_into("<Q", page, FLAGS, flags)
    return page


def encode_block(kernel: Kernel, block: Block, head_vaddr: int) -> bytes:
    """The struct pages of one repetition of `block`, whose first lies at `head_vaddr`."""
    n_pages = 1 << block.order
    head = _head(kernel, block)
    pages = [head]
    if n_pages > 1 and block.kind in ("free", "unaccepted"):
        # Nobody has a reference to a free page, whatever else is left of its last use (Linux __free_pages_core()).
        remains = _page(*((kernel.bit("lru", "swapbacked"), POINTER | 1) if block.stale else ()), refcount=0)
        pages += [bytearray(remains) for _ in range(n_pages - 1)]
    elif n_pages > 1:
        pages += [_tail(kernel, block, head_vaddr, index) for index in range(1, n_pages)]
    for index in block.poison:
        (flags,) = struct.unpack_from("<Q", pages[index], FLAGS)
        struct.pack_into("<Q", pages[index], FLAGS, flags | kernel.bit("hwpoison"))
    data = b"".join(pages)
    if block.hvo:
        # Since 5.14 the vmemmap pages of a hugetlb page after the first may be mapped to the first one's frame.
        data = data[: 64 * STRUCT_PAGE_NBYTES] * (n_pages // 64)
    return data


class StructPages:
    """The struct page array by section; sections of equal content share one buffer where that is plain to see.

    `background` fills every page that no other block describes: one block, or several that fill a section one after the
    other, each as often as it says.
    """

    def __init__(
        self, kernel: Kernel, vmemmap: int, blocks: Iterable[Block], background: Block | Sequence[Block]
    ) -> None:
        self.kernel, self.vmemmap = kernel, vmemmap
        self._shared: dict[bytes, bytes] = {}
        if isinstance(background, Block):
            self._template = self._filled_with(encode_block(kernel, background, vmemmap))
        else:
            assert all(map(_is_alike_everywhere, background)), "all sections share these struct pages"
            self._template = b"".join(encode_block(kernel, block, vmemmap) * block.count for block in background)
            assert len(self._template) == PAGES_PER_SECTION * STRUCT_PAGE_NBYTES
        self._sections: dict[int, bytes | bytearray] = {}
        for block in blocks:
            if _is_alike_everywhere(block):
                self._repeat(block.pfn, encode_block(kernel, block, vmemmap), block.count)
                continue
            for number in range(block.count):
                pfn = block.pfn + (number << block.order)
                self._put(pfn, encode_block(kernel, block, vmemmap + pfn * STRUCT_PAGE_NBYTES))

    def _filled_with(self, unit: bytes) -> bytes:
        if unit not in self._shared:
            self._shared[unit] = unit * (PAGES_PER_SECTION * STRUCT_PAGE_NBYTES // len(unit))
        return self._shared[unit]

    def _repeat(self, pfn: int, unit: bytes, count: int) -> None:
        """Put `count` blocks of the same bytes from `pfn` on; what fills sections is shared."""
        per_block = len(unit) // STRUCT_PAGE_NBYTES
        stop = pfn + count * per_block
        first, last = -(-pfn // PAGES_PER_SECTION), stop // PAGES_PER_SECTION
        if first >= last or PAGES_PER_SECTION % per_block or pfn % per_block:
            self._put(pfn, unit * count)
            return
        self._put(pfn, unit * ((first * PAGES_PER_SECTION - pfn) // per_block))
        self._sections.update(dict.fromkeys(range(first, last), self._filled_with(unit)))
        self._put(last * PAGES_PER_SECTION, unit * ((stop - last * PAGES_PER_SECTION) // per_block))

    def _put(self, pfn: int, data: bytes) -> None:
        position = 0
        while position < len(data):
            section, index = divmod(pfn + position // STRUCT_PAGE_NBYTES, PAGES_PER_SECTION)
            n = min(len(data) - position, (PAGES_PER_SECTION - index) * STRUCT_PAGE_NBYTES)
            buffer = self._sections.get(section, self._template)
            if not isinstance(buffer, bytearray):
                buffer = self._sections[section] = bytearray(buffer)
            buffer[index * STRUCT_PAGE_NBYTES : index * STRUCT_PAGE_NBYTES + n] = data[position : position + n]
            position += n

    def section(self, number: int) -> bytes | bytearray:
        """All struct pages of a section; the same object for every section that holds one kind of block alone."""
        return self._sections.get(number, self._template)

    def at(self, pfn: int) -> bytes:
        """One struct page."""
        section, index = divmod(pfn, PAGES_PER_SECTION)
        return bytes(self.section(section)[index * STRUCT_PAGE_NBYTES : (index + 1) * STRUCT_PAGE_NBYTES])


def _is_alike_everywhere(block: Block) -> bool:
    """Whether the struct pages of a block don't tell where they are: those of tails point at their head."""
    return not block.order or block.kind in ("free", "unaccepted")
