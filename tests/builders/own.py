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
