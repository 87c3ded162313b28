# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel carries of its own symbols and types: kallsyms tables and BTF, written into a dump's memory.

References
----------
Linux ``scripts/kallsyms.c`` (with kallsyms_addresses, as without KALLSYMS_BASE_RELATIVE) and
``Documentation/bpf/btf.rst``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .memory import Memory

Structs = dict[str, tuple[int, dict[str, tuple[int, int]]]]
"""By name: bytes, and the members by name: offset and bytes."""

TABLES = 0x800000
"""Where the tables are, in physical memory: free in machines whose kernel is at 16 MiB."""

ZONE_NBYTES, SPANNED, VM_STAT, FREE_AREA, AREA_NBYTES = 640, 112, 128, 136, 40
NODE = {"node_zones": 0, "nr_zones": 2048, "node_start_pfn": 2056, "node_spanned_pages": 2072}
"""Places in the structs of a zone and a node."""

_INT, _STRUCT, _ENUM = 1, 4, 6


def btf(structs: Structs, enums: dict[str, dict[str, int]]) -> bytes:
    """A BTF section of structs whose members are integers, and of enums."""
    strings = bytearray(b"\0")

    def name(text: str) -> int:
        strings.extend(text.encode() + b"\0")
        return len(strings) - len(text) - 1

    sizes = sorted({nbytes for _, members in structs.values() for _, nbytes in members.values()})
    types = b"".join(struct.pack("<4I", name(f"u{8 * n}"), _INT << 24, n, 8 * n) for n in sizes)
    for tag, (nbytes, members) in structs.items():
        types += struct.pack("<3I", name(tag), _STRUCT << 24 | len(members), nbytes)
        for key, (offset, size) in members.items():
            types += struct.pack("<3I", name(key), 1 + sizes.index(size), 8 * offset)
    for tag, pairs in enums.items():
        types += struct.pack("<3I", name(tag), _ENUM << 24 | len(pairs), 4)
        types += b"".join(struct.pack("<Ii", name(key), value) for key, value in pairs.items())
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + bytes(strings)


def write_own(
    memory: Memory,
    paddr: int,
    base: int,
    symbols: dict[str, int],
    structs: Structs | None = None,
    enums: dict[str, dict[str, int]] | None = None,
) -> dict[str, int]:
    """Write the tables from ``paddr`` on, which the kernel sees at ``base + paddr``; return the VMCOREINFO keys.

    ``symbols`` needs ``_stext``, as VMCOREINFO has it.
    """
    section = btf(structs or {}, enums or {})
    memory.write(paddr, section)
    named = symbols | {"__start_BTF": base + paddr, "__stop_BTF": base + paddr + len(section)}
    names = b"".join(bytes([len(name) + 1]) + b"D" + name.encode() for name in named)
    tokens = b"".join(bytes([code]) + b"\0" if code else b"\0" for code in range(256))
    tables = {
        "num_syms": struct.pack("<I", len(named)),
        "addresses": struct.pack(f"<{len(named)}Q", *named.values()),
        "names": names,
        "token_table": tokens,
        "token_index": struct.pack("<256H", *[max(2 * code - 1, 0) for code in range(256)]),
    }
    at = paddr + len(section)
    keys = {}
    for table, data in tables.items():
        at = -(-at // 16) * 16
        memory.write(at, data)
        keys[f"SYMBOL(kallsyms_{table})"] = base + at
        at += len(data)
    return keys


def write_node(memory: Memory, base: int, zones: list[tuple[int, int, int]], back: int = 16) -> dict[str, int]:
    """Write a node with zones ``(pfn_start, pfn_stop, free)``; where one begins is ``back`` bytes before what it spans.

    The word between, if there is one, is managed_pages. Each zone has two migrate types; the lists of the second, that
    of isolated blocks, are at `isolated_list`.
    """
    node = TABLES + 0x20000
    table = TABLES + 0x30000
    first, last = zones[0][0], max(stop for _, stop, _ in zones)
    for i, (start, stop, free) in enumerate(zones):
        at = node + i * ZONE_NBYTES
        memory.write(at + SPANNED - 8, struct.pack("<Q", stop - start - 1))
        memory.write(at + SPANNED - back, struct.pack("<Q", start))
        memory.write(at + SPANNED, struct.pack("<QQ", stop - start, stop - start))
        memory.write(at + VM_STAT, struct.pack("<q", free))
        for head in range(at + FREE_AREA, at + FREE_AREA + 11 * AREA_NBYTES, AREA_NBYTES):
            for place in (head, head + 16):
                # Empty: nothing is isolated.
                memory.write(place, struct.pack("<2Q", base + place, base + place))
    memory.write(node + NODE["nr_zones"], struct.pack("<I", len(zones)))
    memory.write(node + NODE["node_start_pfn"], struct.pack("<Q", first))
    memory.write(node + NODE["node_spanned_pages"], struct.pack("<Q", last - first))
    memory.write(table, struct.pack("<Q", base + node))
    return {
        "SYMBOL(node_data)": base + table,
        "LENGTH(node_data)": 1,
        "SIZE(zone)": ZONE_NBYTES,
        "OFFSET(zone.spanned_pages)": SPANNED,
        "OFFSET(zone.vm_stat)": VM_STAT,
        "OFFSET(zone.free_area)": FREE_AREA,
        "SIZE(free_area)": AREA_NBYTES,
        "OFFSET(free_area.free_list)": 0,
        "LENGTH(free_area.free_list)": 2,
        "NUMBER(NR_FREE_PAGES)": 0,
        **{f"OFFSET(pglist_data.{name})": offset for name, offset in NODE.items()},
    }


def isolated_list(zone: int, order: int) -> int:
    """Where the list of isolated blocks of an order is, in physical memory."""
    return TABLES + 0x20000 + zone * ZONE_NBYTES + FREE_AREA + order * AREA_NBYTES + 16
