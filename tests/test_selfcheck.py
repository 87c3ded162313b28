# SPDX-License-Identifier: GPL-2.0-or-later
"""The self-check: a kernel that changed in a way that its VMCOREINFO doesn't tell must not cost pages in silence.

Each case alters the VMCOREINFO of a real dump as if npdump didn't know of one of the changes that kernels went through
(makedumpfile had to follow every one of them); what upstream makedumpfile keeps of the unaltered dump is the measure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests import harness
from tests.scanning import opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Alter = Callable[[str], str]

NAMES = ("x86_64-5.10", "x86_64-6.12", "x86_64-7.2")
LEVELS = (2, 8, 16, 31)
"""Each kind of page by itself, and all together: what doesn't matter to one level may to another."""


def without(*keys: str) -> Alter:
    """Leave keys out."""
    return lambda text: re.sub(rf"^(?:{'|'.join(map(re.escape, keys))})=.*\n", "", text, flags=re.MULTILINE)


def with_value(key: str, value: int) -> Alter:
    """Give a key another value; a key that isn't there is added."""

    def alter(text: str) -> str:
        new, n = re.subn(rf"^{re.escape(key)}=.*\n", f"{key}={value}\n", text, flags=re.MULTILINE)
        return new if n else f"{text}{key}={value}\n"

    return alter


def moved(key: str, by: int) -> Alter:
    """Move an offset or a number."""

    def alter(text: str) -> str:
        return re.sub(
            rf"^{re.escape(key)}=(-?\d+)$", lambda match: f"{key}={int(match[1]) + by}", text, flags=re.MULTILINE
        )

    return alter


ALTERATIONS: dict[str, Alter] = {
    "7.1: tails are marked elsewhere": without("OFFSET(page.compound_head)", "OFFSET(page.compound_info)"),
    "tails moved up": lambda text: moved("OFFSET(page.compound_head)", 8)(moved("OFFSET(page.compound_info)", 8)(text)),
    "6.12: buddy as before": with_value("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", -129),
    "4.18: buddy as before": with_value("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", -128),
    "buddy is what's in use": with_value("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", -1),
    "buddy is slab": with_value("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", -184549376),
    "6.10: slab isn't told": without("NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)", "NUMBER(PG_slab)"),
    "6.12: slab is every page": with_value("NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)", -1),
    "6.9: hugetlb isn't told": without("NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)", "NUMBER(HUGETLB_PAGE_DTOR)"),
    "6.12: hugetlb is every page": with_value("NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)", -1),
    "6.6: hugetlb is another flag": with_value("NUMBER(PG_hugetlb)", 0),
    "offline is slab": with_value("NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)", -184549376),
    "4.16: order moved": moved("OFFSET(page.compound_order)", 1),
    "order isn't told": without("OFFSET(page.compound_order)", "OFFSET(page.compound_dtor)"),
    "mapping moved up": moved("OFFSET(page.mapping)", 8),
    "mapping moved down": moved("OFFSET(page.mapping)", -8),
    "private moved up": moved("OFFSET(page.private)", 8),
    "private moved down": moved("OFFSET(page.private)", -8),
    "_mapcount moved up": moved("OFFSET(page._mapcount)", 4),
    "_mapcount moved down": moved("OFFSET(page._mapcount)", -4),
    "flags moved up": moved("OFFSET(page.flags)", 8),
    "struct page shrank": with_value("SIZE(page)", 56),
    "struct page grew": with_value("SIZE(page)", 72),
    "fewer orders": with_value("LENGTH(zone.free_area)", 5),
    **{f"PG_lru is {bit}": with_value("NUMBER(PG_lru)", bit) for bit in (0, 1, 2, 3, 4, 6, 8, 9, 11, 13, 14, 16)},
    **{f"PG_private is {bit}": with_value("NUMBER(PG_private)", bit) for bit in (0, 6, 12, 17)},
    **{f"PG_head is {bit}": with_value("NUMBER(PG_head_mask)", 1 << bit) for bit in (2, 3, 5, 6, 9, 15, 16, 17)},
    **{f"PG_hwpoison is {bit}": with_value("NUMBER(PG_hwpoison)", bit) for bit in (2, 9, 12, 23)},
}


WITHOUT_EFFECT = {
    "x86_64-5.10": {
        "6.12: buddy as before",
        "6.10: slab isn't told",
        "PG_lru is 4",
        "PG_head is 16",
        "PG_hwpoison is 23",
    },
    "x86_64-6.12": {
        "6.6: hugetlb is another flag",
        "4.16: order moved",
        "order isn't told",
        "PG_head is 6",
        "PG_hwpoison is 12",
        "PG_hwpoison is 23",
    },
    "x86_64-7.2": {
        "6.10: slab isn't told",
        "6.6: hugetlb is another flag",
        "4.16: order moved",
        "order isn't told",
        "PG_head is 6",
    },
}
"""What a kernel has, what it doesn't read and what it has no page of: there's nothing to be wrong about."""


HARMLESS = {f"PG_private is {bit}" for bit in (6, 12)} | {"4.10: swapbacked isn't told"}
"""Each page that would be lost says otherwise in another field, and is kept without a word."""


def find_lost(vmcore: Path, name: str, alter: Alter) -> tuple[dict[int, int], bool]:
    """Return how many pages are lost in silence at which level, and whether the alteration changed anything."""
    lost: dict[int, int] = {}
    had_effect = False
    for level in LEVELS:
        # Opened for each level: what was said about one is not a word about the next.
        with opened(vmcore, alter=alter) as scanner:
            kept = scanner.scan(level).kept
        wanted = harness.reference(name).kept(level)
        kept = np.pad(kept, (0, max(0, len(wanted) - len(kept))))[: len(wanted)]
        n_lost = int((wanted & ~kept).sum())
        had_effect |= bool(scanner.said) or not np.array_equal(kept, wanted)
        if n_lost:
            lost[level] = n_lost
    return lost, had_effect


CASES = [(name, case) for name in NAMES for case in ALTERATIONS if case not in WITHOUT_EFFECT[name]]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_no_page_is_lost_in_silence(distilled: Callable[[str], Path], name: str, case: str) -> None:
    """Every kind of page that an altered VMCOREINFO makes doubtful is kept; a refusal is a failure here."""
    lost, had_effect = find_lost(distilled(name), name, ALTERATIONS[case])
    assert lost == {}
    assert had_effect or case in HARMLESS, "this case can't fail: it belongs to WITHOUT_EFFECT"


@pytest.mark.parametrize("name", NAMES)
def test_no_doubt_about_a_kernel_that_is_known(distilled: Callable[[str], Path], name: str) -> None:
    assert find_lost(distilled(name), name, lambda text: text) == ({}, False)


def test_strict_makes_doubt_an_error(distilled, tmp_path):
    """A -i file tells of the page type that the dump's own note lost; it's the wrong one."""
    vmcore = tmp_path / "vmcore"
    data = bytearray(distilled("x86_64-6.12").read_bytes())
    key = b"NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-268435456\n"
    at = data.index(key)
    data[at : at + len(key)] = b"NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-000000129\n"
    vmcore.write_bytes(data)
    result = harness.run("-l", "-d31", "--strict", vmcore, tmp_path / "out")
    assert result.returncode == 1
    assert "self-check" in result.stderr and not (tmp_path / "out").exists()
    result = harness.run_ok("-l", "-d31", vmcore, tmp_path / "out")
    assert "free pages are kept" in result.stderr
