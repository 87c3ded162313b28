# SPDX-License-Identifier: GPL-2.0-or-later
"""The page walk against published vectors: libkdumpfile's tables and translations for every machine that it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from npdump.arch import arm, arm64, i386, ppc64, riscv64, s390x, x86_64
from npdump.arch._paging import walk

PAGINGS = {
    "aarch64-16k": arm64.paging(14, 48),
    "aarch64-4k": arm64.paging(12, 48),
    "aarch64-64k": arm64.paging(16, 48),
    "aarch64-lpa-64k": arm64.paging(16, 48, is_52_bit=True),
    "aarch64-lpa2-16k": arm64.paging(14, 48, is_52_bit=True),
    "aarch64-lpa2-4k": arm64.paging(12, 48, is_52_bit=True),
    "arm-short": arm.short_paging(),
    "ia32": i386.paging(is_pae=False),
    "ia32-pae": i386.paging(is_pae=True),
    "invalid-aarch64-lpa-64k": arm64.paging(16, 52, is_52_bit=True),
    "invalid-aarch64-lpa2-16k": arm64.paging(14, 52, is_52_bit=True),
    "invalid-aarch64-lpa2-4k": arm64.paging(12, 52, is_52_bit=True),
    "ppc64-64k": ppc64.hash_paging(16, (2, 6), ">"),
    "riscv-sv39": riscv64.paging(39),
    "riscv-sv48": riscv64.paging(48),
    "riscv-sv57": riscv64.paging(57),
    "s390x-2l": s390x.paging(2),
    "s390x-3l": s390x.paging(3),
    "s390x-4l": s390x.paging(4),
    "s390x-5l": s390x.paging(5),
    "x86_64-4l": x86_64.paging(4),
    "x86_64-5l": x86_64.paging(5),
    "x86_64-sme": x86_64.paging(4, encryption_mask=0x800000000000),
}

#: Addresses whose vectors ask for more than a walk of the kernel's tables does, and why.
NOT_WALKED = {
    "ppc64-64k": ({0xD000030087654321, 0xD000000023456789}, "huge page directories: only user memory has them"),
    "invalid-ia32": ({0x123456789}, "beyond 32 bits: refused before any walk"),
    "invalid-ia32-pae": ({0x123456789}, "beyond 32 bits: refused before any walk"),
    "invalid-s390x-2l": (
        {0x20000000000000, 0x40000000000, 0x80000000},
        "beyond what the top table resolves, which no kernel address is",
    ),
    "invalid-x86_64": (
        {0x800000000000, 0x8000000000000000, 0xFFFF7FFFFFFFFFFF},
        "not canonical, which no kernel address is",
    ),
}


def _vectors() -> dict[str, tuple[dict[int, int], list[list[int]]]]:
    vectors = {}
    for line in (Path(__file__).parent / "vectors" / "address_translation.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        if not line.startswith(" "):
            entries, translations = vectors[line] = {}, []
            is_table = True
        elif line == " :":
            is_table = False
        else:
            for word in line.split():
                numbers = [int(number, 16) for number in word.split("=")]
                if is_table:
                    entries[numbers[0]] = numbers[1]
                else:
                    translations.append(numbers)
    return vectors


VECTORS = _vectors()


def _walk(name: str, vaddrs: list[int]):
    entries = VECTORS[name][0]
    # The POWER ones say at which virtual addresses the tables are.
    memory = {paddr & 0x3FFFFFFFFFFFFFFF: word for paddr, word in entries.items()}
    paging = PAGINGS.get(name) or PAGINGS[name.removeprefix("invalid-")]

    def read_words(paddrs):
        return np.array([memory.get(paddr, 0) for paddr in paddrs.tolist()], np.uint64)

    return walk(read_words, 0, np.array(vaddrs, np.uint64), paging)


def _asked(name: str) -> list[list[int]]:
    without, _ = NOT_WALKED.get(name, (set(), ""))
    return [numbers for numbers in VECTORS[name][1] if numbers[0] not in without]


@pytest.mark.parametrize("name", [name for name in VECTORS if not name.startswith("invalid")])
def test_translates(name):
    asked = _asked(name)
    at = _walk(name, [vaddr for vaddr, _ in asked])
    assert at.mapped.all()
    assert [hex(paddr) for paddr in at.paddrs.tolist()] == [hex(paddr) for _, paddr in asked]


@pytest.mark.parametrize("name", [name for name in VECTORS if name.startswith("invalid") and _asked(name)])
def test_maps_nothing(name):
    vaddrs = [numbers[0] for numbers in _asked(name)]
    assert [hex(vaddr) for vaddr, mapped in zip(vaddrs, _walk(name, vaddrs).mapped, strict=True) if mapped] == []


def test_all_vectors_are_there():
    n_asked = sum(len(_asked(name)) for name in VECTORS)
    n_left_out = sum(len(addresses) for addresses, _ in NOT_WALKED.values())
    assert (len(VECTORS), n_asked, n_left_out) == (31, 175, 10)


def test_an_address_shares_its_fate_with_what_its_entry_maps():
    at = _walk("aarch64-4k", [0x123, 0x523456, 0xA1234567, 0x8000000000])
    assert at.shifts.tolist() == [12, 21, 30, 30]
    assert at.mapped.tolist() == [True, True, True, False]


def test_a_table_that_points_to_itself_ends():
    at = walk(lambda paddrs: np.full(len(paddrs), 0x67, np.uint64), 0, np.array([0x123], np.uint64), x86_64.paging(5))
    assert at.paddrs.tolist() == [0x123]
