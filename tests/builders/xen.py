# SPDX-License-Identifier: GPL-2.0-or-later
"""A Xen host of x86_64: the hypervisor's image, page tables, frame table and domains, for several of its versions.

Every frame of the machine is of one of `KINDS`; `stays` says by Xen's own rules which of them -X keeps. dom0 is nothing
but the frames that it owns.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .elf import Load, write_core
from .memory import PAGE_SIZE, Memory
from .notes import note, prstatus, vmcoreinfo_text
from .paging import PageTables

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

N_FRAMES = 4096
PHYS_START = 0x400000
DIRECT_MAP = 0xFFFF830000000000
N_RESERVED = 2048
"""Frames before these are taken by what describes the host, and belong to Xen."""

UNMANAGED = range(3072, 3584)

KINDS = (
    "static",
    "heap",
    "dom0",
    "anonymous",
    "guest",
    "other",
    "free",
    "offlining",
    "offlined",
    "broken",
    "unmanaged",
)
STAYS = {"static", "heap", "dom0", "anonymous", "offlining"}
STAYS_BEFORE_4 = {"static", "heap", "dom0", "anonymous", "offlining", "broken"}

ALLOCATED, XEN_HEAP, BROKEN = 1 << 63, 1 << 62, 1 << 57
OFFLINING, OFFLINED, FREE = 1 << 55, 2 << 55, 3 << 55


@dataclass(frozen=True)
class Host:
    """What to build.

    Parameters
    ----------
    version
        Of Xen.
    virt_start
        Where its image is.
    n_words
        Of its note: 8, 9 with dom0's list, 10 with where the image is.
    frame_list_list
        The frame with dom0's list; `spoil` fills it.
    frame_table
        Its address; the symbol is there only with `has_symbol`.
    page_info, count_at, owner_at, next_at
        Sizes and offsets in bytes.
    keys
        Of VMCOREINFO_XEN, to set, or with None to leave out.
    spoil
        Is called before the file is written.
    """

    version: tuple[int, int] = (4, 17)
    virt_start: int = 0xFFFF82D040000000
    n_words: int = 10
    frame_table: int = 0xFFFF82E000000000
    has_symbol: bool = True
    page_info: int = 32
    count_at: int = 8
    owner_at: int = 24
    next_at: int = 136
    has_note: bool = True
    frame_list_list: int = 0
    keys: dict[str, int | None] = field(default_factory=dict)
    spoil: Callable[[Built], None] = lambda built: None


@dataclass
class Built:
    """A host in memory; `symbols` are addresses by name, `domains` those of the domains, by number."""

    host: Host
    memory: Memory
    tables: PageTables
    symbols: dict[str, int]
    domains: dict[int, int]
    kinds: list[str]

    def paddr(self, vaddr: int) -> int:
        """Physical address of what is in the image or the direct map."""
        if vaddr >= DIRECT_MAP:
            return vaddr - DIRECT_MAP
        return vaddr - self.host.virt_start + PHYS_START

    def put(self, vaddr: int, value: int, form: str = "<Q") -> None:
        """Store a number."""
        self.memory.write(self.paddr(vaddr), struct.pack(form, value))

    @property
    def expected(self) -> list[int]:
        """The frames that -X keeps."""
        stays = STAYS if self.host.version >= (4, 0) else STAYS_BEFORE_4
        return [mfn for mfn, kind in enumerate(self.kinds) if kind in stays]

    def text(self) -> bytes:
        """What Xen says of itself."""
        host = self.host
        keys = {f"SYMBOL({name})": vaddr for name, vaddr in self.symbols.items()}
        keys |= {"SIZE(page_info)": host.page_info, "SIZE(domain)": 2048}
        keys |= {"OFFSET(page_info.count_info)": host.count_at, "OFFSET(page_info._domain)": host.owner_at}
        keys |= {"OFFSET(domain.domain_id)": 0, "OFFSET(domain.next_in_list)": host.next_at}
        chosen = {key: value for key, value in (keys | host.keys).items() if value is not None}
        return vmcoreinfo_text({"PAGESIZE": PAGE_SIZE} | chosen)


def kind_of(mfn: int, host: Host) -> str:
    """What a frame is: Xen's own, then 32 frames of each kind in turn; some have no page_info, in whole pages."""
    if mfn < N_RESERVED:
        return "static"
    if mfn in UNMANAGED and PAGE_SIZE % host.page_info == 0:
        return "unmanaged"
    return KINDS[(mfn - N_RESERVED) // 32 % (len(KINDS) - 1)]


def build(path: Path, host: Host) -> Built:
    """Write the vmcore of a host."""
    memory = Memory()
    frames = iter(range(PHYS_START + 0x100000, N_RESERVED * PAGE_SIZE, PAGE_SIZE))
    root = next(frames)
    tables = PageTables(memory, lambda: next(frames), root, 4)
    names = ("domain_list", "dom_xen", "dom_io", "frame_table", "max_page", "alloc_bitmap", "xenheap_phys_end")
    symbols = {name: host.virt_start + 0x1000 + 64 * i for i, name in enumerate(names)}
    symbols["pgd_l4"] = host.virt_start + root - PHYS_START
    domains = {number: DIRECT_MAP + next(frames) for number in (0, 3, 5, 0x7FF1, 0x7FF2)}
    built = Built(host, memory, tables, symbols, domains, [kind_of(mfn, host) for mfn in range(N_FRAMES)])
    for number, vaddr in domains.items():
        built.put(vaddr, number, "<H")
    listed = [0, 3, 5]
    for number, after in zip(listed, [*listed[1:], None], strict=True):
        built.put(domains[number] + host.next_at, 0 if after is None else domains[after])
    built.put(symbols["domain_list"], domains[0])
    built.put(symbols["dom_io"], domains[0x7FF1])
    built.put(symbols["dom_xen"], domains[0x7FF2])
    built.put(symbols["frame_table"], host.frame_table)
    built.put(symbols["max_page"], N_FRAMES)
    built.put(symbols["xenheap_phys_end"], N_RESERVED * PAGE_SIZE)
    bitmap = DIRECT_MAP + next(frames)
    built.put(symbols["alloc_bitmap"], bitmap)
    bits = sum(1 << mfn for mfn, kind in enumerate(built.kinds) if kind not in ("free", "offlined"))
    memory.write(built.paddr(bitmap), bits.to_bytes(N_FRAMES // 8, "little"))
    _put_frame_table(built, frames)
    if not host.has_symbol:
        del symbols["frame_table"]
    host.spoil(built)
    write_core(path, memory, [Load(0, N_FRAMES * PAGE_SIZE, DIRECT_MAP)], _notes(built))
    return built


def _put_frame_table(built: Built, frames) -> None:
    host = built.host
    nbytes = N_FRAMES * host.page_info
    raw = bytearray(nbytes)
    pages_of_managed = set()
    for mfn, kind in enumerate(built.kinds):
        at = mfn * host.page_info
        count, owner = _page_info(built, kind)
        struct.pack_into("<Q" if host.version >= (4, 0) else "<I", raw, at + host.count_at, count)
        struct.pack_into("<I", raw, at + host.owner_at, owner)
        if kind != "unmanaged":
            pages_of_managed |= {at // PAGE_SIZE, (at + host.page_info - 1) // PAGE_SIZE}
    for page in range(-(-nbytes // PAGE_SIZE)):
        if page in pages_of_managed:
            paddr = next(frames)
            built.tables.map(host.frame_table + page * PAGE_SIZE, paddr, PAGE_SIZE)
            built.memory.write(paddr, bytes(raw[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]))


def _page_info(built: Built, kind: str) -> tuple[int, int]:
    """`count_info` and `_domain` of a frame."""
    owner = {"dom0": 0, "offlining": 0, "guest": 3, "other": 0x7FF1, "heap": 0x7FF2, "broken": 3}.get(kind)
    # Since Xen 3.4 it is the number of the page that the domain's struct is in, before the low half of its address.
    by_page = built.host.version >= (3, 4)
    vaddr = 0 if owner is None else built.domains[owner]
    pickled = 0 if owner is None else (vaddr - DIRECT_MAP) // PAGE_SIZE if by_page else vaddr & 0xFFFFFFFF
    if built.host.version < (4, 0):
        # Heap and broken pages are told by where they are; these have no owner then.
        return (1 << 31 | 1, 0 if kind in ("heap", "broken") else pickled)
    count = {
        "static": 0,
        "heap": ALLOCATED | XEN_HEAP | 1,
        "free": FREE,
        "offlining": ALLOCATED | OFFLINING | 1,
        "offlined": OFFLINED,
        "broken": ALLOCATED | BROKEN | 1,
        "unmanaged": 0,
    }.get(kind, ALLOCATED | 1)
    return count, pickled


def _notes(built: Built) -> bytes:
    host = built.host
    words = [*host.version, 0, 0, 0, 0, 0, 0]
    if host.n_words == 10:
        words.append(PHYS_START)
    if host.n_words >= 9:
        words.append(host.frame_list_list)
    info = note(b"Xen", 0x1000001, struct.pack(f"<{len(words)}Q", *words))
    text = note(b"VMCOREINFO_XEN", 0, built.text().ljust(2048, b"\0")) if host.has_note else b""
    return prstatus(1) + info + text
