# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines and layouts of which there is no real vmcore here, built entry by entry from their manuals.

What an entry looks like is written out for each of them, without the declarations of npdump.
"""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from tests.builders.machine import N_PAGES, Image, Spec, Tables, build
from tests.harness import run, run_ok
from tests.readers import notes, open_dump

U64 = (1 << 64) - 1
#: Page cache and user memory go at the one, page cache with buffers and free memory at the other.
LEVELS = (10, 20)


def _levels(page_shift: int, va_bits: int, index_bits: int) -> tuple[tuple[int, int], ...]:
    """Levels of tables that fill a page each but for the top one."""
    shifts = range(page_shift, va_bits, index_bits)
    return tuple((shift, min(index_bits, va_bits - shift)) for shift in reversed(shifts))


def _arm64(page_shift: int, va_bits: int, page_mark: int = 0x713, linear: int | None = None, **changes) -> Spec:
    """Linux v5.4 on: RAM at 1 GiB, linear map in the lower half of the kernel addresses, image in the upper one."""
    image_offset = U64 + 1 - (1 << min(va_bits, 48) - 1) + 0x8000000 - 0x40000000
    keys = {
        "NUMBER(VA_BITS)": va_bits,
        "NUMBER(kimage_voffset)": hex(image_offset),
        "NUMBER(PHYS_OFFSET)": hex(0x40000000),
        "NUMBER(TCR_EL1_T1SZ)": hex(64 - va_bits),
    }
    tables = Tables(
        _levels(page_shift, va_bits, page_shift - 3),
        "<Q",
        lambda paddr, below: paddr | 0b11,
        lambda paddr: paddr | 1 << 54 | page_mark,
    )
    spec = {
        "machine": 183,
        "bits": 64,
        "order": "<",
        "page_size": 1 << page_shift,
        "ram_start": 0x40000000,
        "image_offset": image_offset,
        "memmap_vaddr": 0xFFFFFC0000000000,
        "tables": tables,
        "map_from_zero": True,
        "keys": keys | changes.pop("keys", {}),
    }
    return Spec(**spec | changes)


def _arm64_before_v5_4() -> Spec:
    offset = 0xFFFFFF8008000000 - 0x40000000
    return _arm64(
        12,
        39,
        release="4.14.0",
        image_offset=offset,
        memmap_vaddr=0xFFFFFFBE00000000,
        keys={"NUMBER(kimage_voffset)": hex(offset)},
    )


def _arm64_built_for_52_bits() -> Spec:
    """On hardware for 48: the top table has entries for all 52, and PHYS_OFFSET is that of a linear map of 52."""
    spec = _arm64(16, 52)
    moved = 0x40000000 - ((1 << 52) - (1 << 48)) & U64
    return _arm64(16, 52, keys=spec.keys | {"NUMBER(TCR_EL1_T1SZ)": hex(16), "NUMBER(PHYS_OFFSET)": hex(moved)})


def _arm64_in_linear_map() -> Spec:
    """As before, with a memory map that only the linear map reaches."""
    spec = _arm64_built_for_52_bits()
    linear = 0xFFFF000000000000
    paddr = spec.ram_start + 200 * spec.page_size

    def extra(image: Image) -> None:
        for number, frame in enumerate(image.frames):
            data = image.memory.read(frame, spec.page_size)
            image.memory.write(paddr + number * spec.page_size, data)
            image.memory.write(frame, bytes(spec.page_size))

    return _arm64(16, 52, keys=spec.keys, memmap_vaddr=linear + paddr - spec.ram_start, extra=extra)


def _arm(is_lpae: bool, order: str) -> Spec:
    if is_lpae:
        tables = Tables(
            ((30, 2), (21, 9), (12, 9)),
            order + "Q",
            lambda paddr, below: paddr | 3,
            lambda paddr: paddr | 1 << 54 | 0x743,
        )
    else:
        tables = Tables(
            ((20, 12), (12, 8)), order + "I", lambda paddr, below: paddr | 0x11, lambda paddr: paddr | 0x45E
        )
    return Spec(
        machine=40,
        bits=32,
        order=order,
        page_size=4096,
        ram_start=0x80000000,
        image_offset=0xC0000000 - 0x80000000,
        memmap_vaddr=0xF0800000,
        tables=tables,
        keys={"CONFIG_ARM_LPAE": "y"} if is_lpae else {},
    )


def _i386() -> Spec:
    tables = Tables(((22, 10), (12, 10)), "<I", lambda paddr, below: paddr | 0x67, lambda paddr: paddr | 0x163)
    return Spec(
        machine=3, bits=32, order="<", page_size=4096, image_offset=0xC0000000, memmap_vaddr=0xF8002000, tables=tables
    )


def _ppc64(levels, to_page, to_table=lambda paddr, below: paddr, **changes) -> Spec:
    spec = {
        "machine": 21,
        "bits": 64,
        "order": "<",
        "page_size": 4096,
        "image_offset": 0xC000000000000000,
        "memmap_vaddr": 0xD000080000000000,
        "tables": Tables(levels, changes.pop("entry", ">Q"), to_table, to_page),
    }
    return Spec(**spec | changes)


def _ppc64_pointer(image: Image) -> None:
    """A pointer to the printk buffer: what it holds shows the byte order."""
    at = image.allocate(16)
    image.memory.write(at, image.pack("Q", at + 8 + image.spec.image_offset))
    image.symbol("prb", at)


def _ppc64_radix(**changes) -> Spec:
    return _ppc64(
        ((39, 13), (30, 9), (21, 9), (16, 5)),
        lambda paddr: paddr | 0xC00000000000018E,
        lambda paddr, below: paddr | 0x8000000000000009,
        page_size=65536,
        memmap_vaddr=0xC00C000000000000,
        **changes,
    )


def _ppc64_vmemmap_list(image: Image) -> None:
    """struct vmemmap_backing for each frame of the memory map, and mmu_psize_defs[2] of 64 KiB pages."""
    at = image.allocate(0x1000)
    head = 0
    for number, frame in enumerate(image.frames):
        node = at + 0x400 + 32 * number
        vaddr = image.spec.memmap_vaddr + number * image.spec.page_size
        image.memory.write(node, image.pack("QQQ", head, frame, vaddr))
        head = node + image.spec.image_offset
    image.memory.write(at, image.pack("QI", head, 2))
    image.memory.write(at + 0x100 + 2 * 96, image.pack("I", 16))
    image.symbol("vmemmap_list", at)
    image.symbol("mmu_vmemmap_psize", at + 8)
    image.symbol("mmu_psize_defs", at + 0x100)


def _ppc64_hash_with_list() -> Spec:
    keys = {
        "SYMBOL(swapper_pg_dir)": "c000000000000000",
        "SIZE(vmemmap_backing)": 24,
        "OFFSET(vmemmap_backing.list)": 0,
        "OFFSET(vmemmap_backing.phys)": 8,
        "OFFSET(vmemmap_backing.virt_addr)": 16,
        "SIZE(mmu_psize_def)": 96,
        "OFFSET(mmu_psize_def.shift)": 0,
    }
    return Spec(
        machine=21,
        bits=64,
        order=">",
        page_size=65536,
        image_offset=0xC000000000000000,
        memmap_vaddr=0xF000000000000000,
        extra=_ppc64_vmemmap_list,
        keys=keys,
    )


def _s390x(n_levels: int, memmap_vaddr: int, image_offset: int = 0, **changes) -> Spec:
    levels = ((53, 11), (42, 11), (31, 11), (20, 11), (12, 8))[-n_levels:]
    # Region entries name the type of their table, 3 to 1 from the top, and that all of the table below is there.
    tables = Tables(
        levels,
        ">Q",
        lambda paddr, below: paddr | (4 * (below - 1) | 3 if below > 1 else 0),
        lambda paddr: paddr | 0x1,
    )
    return Spec(
        machine=22,
        bits=64,
        order=">",
        page_size=4096,
        image_offset=image_offset,
        memmap_vaddr=memmap_vaddr,
        tables=tables,
        **changes,
    )


def _s390x_os_info(image: Image) -> None:
    """struct os_info, as kernels since v6.10 fill it: identity map, image, vmemmap and 31-bit code by themselves."""
    at = image.allocate(4096)
    values = {4: 0x1000000000000, 5: 0x1FFFFFE000000000, 6: 0x2000, 7: 0x37200000000000, 8: 0x7F000000, 9: 0x7F010000}
    image.memory.write(at, struct.pack(">Q", 0x4F53494E464F535A))
    for index, value in values.items():
        image.memory.write(at + 32 + 20 * index, struct.pack(">QQI", value, 0, 0))
    image.memory.write(0xE18, struct.pack(">Q", at))


def _riscv(va_bits: int, page_offset: int) -> Spec:
    link_address = 0xFFFFFFFF80000000
    keys = {
        "NUMBER(VA_BITS)": va_bits,
        "NUMBER(PAGE_OFFSET)": hex(page_offset),
        "NUMBER(phys_ram_base)": 0x80000000,
        "NUMBER(KERNEL_LINK_ADDR)": hex(link_address),
        "NUMBER(va_kernel_pa_offset)": hex(link_address - 0x80000000),
        "NUMBER(VMALLOC_START)": hex(page_offset - (1 << va_bits - 3)),
        "NUMBER(MODULES_VADDR)": hex(link_address - 0x1000000),
    }
    tables = Tables(
        _levels(12, va_bits, 9), "<Q", lambda paddr, below: paddr >> 2 | 0x01, lambda paddr: paddr >> 2 | 0xE7
    )
    return Spec(
        machine=243,
        bits=64,
        order="<",
        page_size=4096,
        ram_start=0x80000000,
        image_offset=link_address - 0x80000000,
        memmap_vaddr=page_offset - (1 << va_bits - 3),
        tables=tables,
        keys=keys,
    )


def _tables_by_address(base: int, order: str, page_mark: int) -> Tables:
    """Three levels of 16 KiB tables, whose entries for tables are virtual addresses."""
    return Tables(
        _levels(14, 47, 11), order + "Q", lambda paddr, below: base | paddr, lambda paddr: paddr | page_mark, 1 << 14
    )


def _mips64(order: str) -> Spec:
    return Spec(
        machine=8,
        bits=64,
        order=order,
        page_size=1 << 14,
        image_offset=0xFFFFFFFF80000000,
        memmap_vaddr=0xC000000000008000,
        tables=_tables_by_address(0x9800000000000000, order, 0x1),
    )


def _sparc64() -> Spec:
    tables = Tables(
        ((43, 10), (33, 10), (23, 10), (13, 10)),
        ">Q",
        lambda paddr, below: paddr,
        lambda paddr: paddr | 1 << 63 | 0x10,
    )
    return Spec(
        machine=43,
        bits=64,
        order=">",
        page_size=1 << 13,
        image_offset=0xFFFFF80000000000,
        memmap_vaddr=0x0000010000000000,
        tables=tables,
        load_offset=0xFFFFF80000000000,
    )


def _ia64() -> Spec:
    tables = Tables(
        ((36, 11), (25, 11), (14, 11)), "<Q", lambda paddr, below: paddr, lambda paddr: paddr | 0x661, 1 << 14
    )
    return Spec(
        machine=50,
        bits=64,
        order="<",
        page_size=1 << 14,
        image_offset=0xE000000000000000,
        memmap_vaddr=0xA0007FFFC0000000,
        tables=tables,
        stext=0xA000000100000000,
        keys={"CONFIG_PGTABLE_3": "y"},
    )


def _hash_4_17() -> Spec:
    return _ppc64(
        ((44, 8), (34, 10), (24, 10), (16, 8)), lambda paddr: paddr | 1 << 63 | 0x18E, page_size=65536, release="4.19.0"
    )


def _hash_3_10() -> Spec:
    return _ppc64(
        ((37, 9), (28, 9), (21, 7), (12, 9)),
        lambda paddr: paddr >> 12 << 17 | 0x1,
        lambda paddr, below: 0xC000000000000000 | paddr,
        release="3.10.0",
        entry="<Q",
    )


CASES = {
    "arm64, 4 KiB, 39 bits, before v5.4": _arm64_before_v5_4,
    "arm64, 4 KiB, 48 bits": lambda: _arm64(12, 48),
    "arm64, 4 KiB, 52 bits (LPA2)": lambda: _arm64(12, 52, 0x413),
    "arm64, 16 KiB, 47 bits": lambda: _arm64(14, 47),
    "arm64, 16 KiB, 52 bits (LPA2)": lambda: _arm64(14, 52, 0x413),
    "arm64, 64 KiB, 42 bits": lambda: _arm64(16, 42, memmap_vaddr=0xFFFFFFFE00000000),
    "arm64, 64 KiB, 48 bits": lambda: _arm64(16, 48),
    "arm64, 64 KiB, 52 bits": lambda: _arm64(16, 52),
    "arm64, 64 KiB, built for 52 bits, 48 in use": _arm64_built_for_52_bits,
    "arm64, 64 KiB, built for 52 bits, 48 in use, linear": _arm64_in_linear_map,
    "arm, short descriptors": lambda: _arm(False, "<"),
    "arm, short descriptors, big-endian": lambda: _arm(False, ">"),
    "arm, LPAE": lambda: _arm(True, "<"),
    "i386 without PAE": _i386,
    "ia64": _ia64,
    "loongarch64": lambda: Spec(
        machine=258,
        bits=64,
        order="<",
        page_size=1 << 14,
        image_offset=0x9000000000000000,
        memmap_vaddr=0xFFFFFC0000000000,
        tables=_tables_by_address(0x9000000000000000, "<", 0x83),
    ),
    "mips64, little-endian": lambda: _mips64("<"),
    "mips64, big-endian": lambda: _mips64(">"),
    "ppc": lambda: Spec(
        machine=20, bits=32, order=">", page_size=4096, image_offset=0xC0000000, memmap_vaddr=0xC0005000
    ),
    "ppc64, radix, headers of the other byte order": lambda: _ppc64_radix(elf_order=">", extra=_ppc64_pointer),
    "ppc64, radix, big-endian": lambda: _ppc64_radix(order=">"),
    "ppc64, hash, 64 KiB, vmemmap_list": _ppc64_hash_with_list,
    "ppc64, hash, 64 KiB, v4.19": _hash_4_17,
    "ppc64, hash, 4 KiB, v3.10": _hash_3_10,
    "riscv64, Sv39": lambda: _riscv(39, 0xFFFFFFD800000000),
    "riscv64, Sv48": lambda: _riscv(48, 0xFFFFAF8000000000),
    "s390x, 3 levels": lambda: _s390x(3, 0x20000000000 // 2),
    "s390x, 4 levels": lambda: _s390x(4, 0x37200000000),
    "s390x, 5 levels, os_info": lambda: _s390x(
        5, 0x37200000000000, 0x1FFFFFE000000000 - 0x2000, extra=_s390x_os_info, release="6.12.0"
    ),
    "sparc64": _sparc64,
}
#: Whose dump files count page frames from the start of memory.
COUNTED_FROM_RAM = {40}


@pytest.mark.parametrize("name", CASES)
def test_keeps_what_was_built_to_stay(name, tmp_path):
    spec = CASES[name]()
    kept = build(tmp_path / "vmcore", spec)
    first = 0 if spec.machine in COUNTED_FROM_RAM else spec.ram_start // spec.page_size
    for level in LEVELS:
        run_ok("-f", "-d", str(level), tmp_path / "vmcore", tmp_path / "dump")
        dump = open_dump(tmp_path / "dump")
        assert dump.max_mapnr == first + N_PAGES
        assert dump.block_size == spec.page_size
        assert (dump.order, dump.bits) == (spec.order, spec.bits)
        assert notes.find(dump.notes, "VMCOREINFO", dump.order).desc == dump.vmcoreinfo
        assert dump.utsname["nodename"] == "synthetic"
        assert (dump.pfns - first).tolist() == kept[level].nonzero()[0].tolist()


@pytest.mark.parametrize("value", ["0", "ffffffffffffffff"])
@pytest.mark.parametrize("symbol", ["swapper_pg_dir", "mem_map"])
@pytest.mark.parametrize("name", ["arm, LPAE", "riscv64, Sv39", "s390x, 5 levels, os_info"])
def test_damaged_symbols_are_refused(name, symbol, value, tmp_path):
    spec = CASES[name]()
    build(tmp_path / "vmcore", replace(spec, keys=spec.keys | {f"SYMBOL({symbol})": value}))
    result = run("-d", "31", tmp_path / "vmcore", tmp_path / "dump")
    assert "Traceback" not in result.stderr
    assert result.returncode == 1
    assert not (tmp_path / "dump").exists()
