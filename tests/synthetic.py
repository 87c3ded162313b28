# SPDX-License-Identifier: GPL-2.0-or-later
"""The synthetic machines that the tests build, each for one thing that real dumps may bring."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.builders import notes as note
from tests.builders.elf import FileShape, Load
from tests.builders.kernels import KERNELS, Kernel
from tests.builders.pages import Block
from tests.builders.vmcore import KASLR, LA57, Description, Layout

if TYPE_CHECKING:
    from collections.abc import Callable

MIB, GIB = 1 << 20, 1 << 30
LOW = (0x1000, 0x9FC00)  # ends inside a page, as the BIOS reports it
MAIN = (MIB, 160 * MIB)  # two sections
FIRST_FREE_PFN = 0x4000  # behind the kernel image and its tables
ALL_LEVELS = (0, 2, 4, 8, 16)


@dataclass(frozen=True)
class Case:
    """A machine, the levels to try, and why makedumpfile can't be asked about it (empty if it can)."""

    describe: Callable[[], Description]
    upstream: str = ""
    levels: tuple[int, ...] = ALL_LEVELS
    options: tuple[str, ...] = field(default=())


def every_kind(kernel: Kernel, pfn: int = FIRST_FREE_PFN) -> list[Block]:
    """A few blocks of each kind, in natural alignment, from `pfn` on."""
    kinds = [
        ("free", 0, 3),
        ("free", 3, 2),
        ("free", 10, 2),
        ("lru", 0, 7),
        ("lru", 4, 2),
        ("private", 0, 5),
        ("private", 2, 1),
        ("tmpfs", 0, 2),
        ("swapcache", 0, 2),
        ("owner", 0, 2),
        ("anon", 0, 5),
        ("anon", 9, 2),
        ("anon_swapcache", 0, 2),
        ("anon_unlisted", 0, 2),
        ("ksm", 0, 2),
        ("movable", 0, 2),
        ("slab", 0, 2),
        ("slab", 3, 3),
        ("hugetlb", 9, 2),
        ("offline", 0, 9),
    ]
    if "unaccepted" in kernel.mapcount:
        kinds.append(("unaccepted", kernel.n_free_area - 1, 2))
    blocks = []
    for kind, order, count in kinds:
        pfn = -(-pfn >> order) << order
        blocks.append(Block(pfn, kind, order, count, stale=kind in ("free", "unaccepted")))
        pfn += count << order
    return blocks


def _machine(release: str = "6.12", **changes) -> Description:
    kernel = KERNELS[release]
    return Description(**{"kernel": kernel, "ram": [LOW, MAIN], "blocks": every_kind(kernel)} | changes)


def _poison() -> Description:
    at = FIRST_FREE_PFN
    blocks = [
        Block(at, "anon", 9, poison=(7, 511)),
        Block(at + 512, "hugetlb", 9, poison=(0,)),
        Block(at + 1024, "hugetlb", 9, poison=(100,)),
        Block(at + 1536, "lru", 4, poison=(0, 3)),
        Block(at + 1552, "slab", 3, poison=(1,)),
        Block(at + 1560, "kernel", poison=(0,)),
        Block(at + 1561, "lru", poison=(0,)),
        Block(at + 2048, "free", 10, poison=(5,)),
    ]
    return _machine(blocks=blocks)


def _corrupt() -> Description:
    at = FIRST_FREE_PFN
    blocks = [
        Block(at, "free", fields={"private": 11}),
        Block(at + 1, "free", fields={"private": 1 << 63}),
        Block(at + 2, "free", fields={"private": 0xFFFFFFFF00000003}),
        Block(at + 17, "free", fields={"private": 3}),  # not aligned
        Block(at + 20, "free", fields={"private": 4}),  # begins within the one before and ends behind it
        Block(at + 50, "lru", 1),
        # Its order is what the next page has as flags.
        Block(at + 49, "lru", fields={"flags": KERNELS["6.12"].bit("lru", "head")}),
        Block(0x7FFF, "free", fields={"private": 10}),  # leaves its section
        Block(0x8100, "anon", count=300),
        Block(160 * MIB // 4096 - 3, "free", fields={"private": 10}),  # leaves the RAM
    ]
    return _machine(blocks=blocks)


def _long_ranges() -> Description:
    """Blocks that span sections: hugetlb pages of 1 GiB, and free blocks of a kernel with larger orders."""
    kernel = KERNELS["6.12"]
    blocks = [Block(0x40000, "hugetlb", 18), Block(0x80000, "free", 17, stale=True), Block(0xA0000, "lru", 0, 100)]
    return Description(
        kernel=kernel, ram=[(MIB, 3 * GIB)], blocks=blocks, keys={"LENGTH(zone.free_area)": 20}, fill=4096
    )


def _hvo() -> Description:
    blocks = [Block(FIRST_FREE_PFN, "hugetlb", 9, 6, hvo=True), Block(0x6000, "lru", 9), Block(0x6200, "anon", 9)]
    return _machine(blocks=blocks, leaf="4K")


def _straddling(loads: list[Load]) -> list[Load]:
    """Cut the main RAM inside pages: once with no gap, once with a gap of part of a page."""
    *others, main = loads
    cuts = [(main.start, 80 * MIB + 0x800), (80 * MIB + 0x800, 90 * MIB + 0x123), (90 * MIB + 0x456, main.stop)]
    return others + [Load(start, stop, main.vaddr + start - main.start) for start, stop in cuts]


def _filtered_before(loads: list[Load]) -> list[Load]:
    """As a filter leaves it: every second MiB of the last 64 MiB has no bytes in the file."""
    *others, main = loads
    start = main.stop - 64 * MIB
    cut = [Load(main.start, start, main.vaddr)]
    cut += [
        Load(paddr, paddr + 2 * MIB, main.vaddr + paddr - main.start, filesz=MIB)
        for paddr in range(start, main.stop, 2 * MIB)
    ]
    return others + cut


def _many_loads(loads: list[Load]) -> list[Load]:
    """More program headers than e_phnum can count: one page each, every second page."""
    kernel, _, main = loads
    big = Load(main.start, 128 * MIB, main.vaddr)
    singles = range(128 * MIB, 128 * MIB + 0x10010 * 0x2000, 0x2000)
    return [kernel, big, *(Load(paddr, paddr + 0x1000, main.vaddr + paddr - main.start) for paddr in singles)]


def _rich_notes(parts: list[bytes]) -> list[bytes]:
    *cpus, vmcoreinfo = parts
    return [
        *cpus,
        note.TERMINATOR,
        note.device_dump(300_000),
        vmcoreinfo,
        note.qemu_cpu(0x1000000),
        note.TERMINATOR * 3,
    ]


def _huge() -> Description:
    """Memory up to 257 GiB, with nearly everything free; the struct pages of the free sections share frames."""
    kernel = KERNELS["6.12"]
    ram = [(MIB, 3 * GIB), (4 * GIB, 20 * GIB), (64 * GIB, 72 * GIB), (128 * GIB, 132 * GIB), (250 * GIB, 257 * GIB)]
    blocks = [
        Block(0, "kernel", count=0x6000),
        *every_kind(kernel, 0x6000),
        Block(0x1000000, "anon", 0, 1000),
        Block(0x2000000, "hugetlb", 9, 64),
    ]
    return Description(kernel=kernel, ram=ram, blocks=blocks, background=Block(0, "free", 10), layout=KASLR, fill=0)


ABORTS = "makedumpfile stops where struct pages can't be read"
DIFFERENT = "npdump deliberately decides otherwise"
NOT_AT_64 = "makedumpfile takes for granted that the program headers are at byte 64"

CASES: dict[str, Case] = {
    **{
        f"kernel-{release}": Case(
            lambda release=release: _machine(release), levels=ALL_LEVELS if release in ("5.10", "7.2") else (8, 31)
        )
        for release in KERNELS
    },
    "kaslr": Case(lambda: _machine(layout=KASLR), levels=(0, 31)),
    "five-levels": Case(lambda: _machine("7.2", layout=LA57, leaf="4K"), levels=(0, 31)),
    "five-levels-1g": Case(
        lambda: _machine(
            "6.1",
            layout=LA57,
            leaf="1G",
            ram=[LOW, MAIN, (GIB - 16 * MIB, GIB + 64 * MIB)],
            kernel_paddr=GIB - 16 * MIB,
        ),
        levels=(31,),
    ),
    "static-sections": Case(lambda: _machine(mem_section="static", layout=Layout(max_physmem_bits=36)), levels=(0, 31)),
    "sections-by-pointer": Case(lambda: _machine(mem_section="pointer"), levels=(0, 31)),
    "above-4g": Case(
        lambda: _machine(
            ram=[LOW, MAIN, (4 * GIB, 4 * GIB + 64 * MIB), (6 * GIB + 32 * MIB, 6 * GIB + 96 * MIB)],
            blocks=every_kind(KERNELS["6.12"]) + every_kind(KERNELS["6.12"], 0x182000),
        ),
        levels=(0, 16, 31),
    ),
    "old-without-poison": Case(lambda: _machine(kernel=KERNELS["5.10"].without("hwpoison")), levels=(0, 16, 31)),
    "unknown-swapbacked": Case(
        lambda: _machine(
            kernel=KERNELS["5.10"].without("swapbacked"),
            blocks=[Block(FIRST_FREE_PFN, "owner", 0, 9), Block(FIRST_FREE_PFN + 9, "free", 0, 5)],
        ),
        levels=(2, 31),
    ),
    "waiters-bit-is-not-slab": Case(
        lambda: _machine(blocks=[Block(FIRST_FREE_PFN, "anon", 0, 9, fields={"flags": 0x200A0})]), DIFFERENT, (2, 8, 31)
    ),
    "poison": Case(_poison, DIFFERENT),
    "corrupt-orders": Case(_corrupt, DIFFERENT, (2, 16, 31)),
    "long-ranges": Case(_long_ranges, levels=(24,)),
    "long-ranges-cyclic": Case(_long_ranges, levels=(31,), options=("--cyclic-buffer", "1")),
    "windows": Case(lambda: _machine(), levels=(0, 16, 31), options=("--cyclic-buffer", "1")),
    "hvo": Case(_hvo, levels=(2, 8, 31)),
    "memmap-hole": Case(
        lambda: _machine(ram=[LOW, (MIB, 288 * MIB)], memmap_holes=frozenset({1})), ABORTS, levels=(0, 31)
    ),
    "straddling-pages": Case(lambda: _machine(loads=_straddling), levels=(0, 31)),
    "filtered-before": Case(lambda: _machine(loads=_filtered_before), levels=(0, 31)),
    "many-program-headers": Case(
        lambda: _machine(ram=[LOW, (MIB, 700 * MIB)], loads=_many_loads, fill=1024),
        "it takes makedumpfile minutes",
        levels=(31,),
    ),
    "headers-at-192": Case(
        lambda: _machine(shape=FileShape(phoff=192, ehsize=8, packed=True)), NOT_AT_64, levels=(0, 31)
    ),
    "unaligned-in-file": Case(
        lambda: _machine(shape=FileShape(data_align=4, data_shift=4, packed=True)), levels=(0, 31)
    ),
    "no-virtual-addresses": Case(
        lambda: _machine(loads=lambda loads: [Load(load.start, load.stop) for load in loads[1:]]), levels=(0, 31)
    ),
    "notes": Case(lambda: _machine(n_cpus=300, notes=_rich_notes), levels=(31,)),
    "huge": Case(_huge, levels=(16, 31)),
}
