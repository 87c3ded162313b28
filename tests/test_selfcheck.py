# SPDX-License-Identifier: GPL-2.0-or-later
"""The self-check: a kernel that changed in a way that its VMCOREINFO doesn't tell must not cost pages in silence.

Each case alters the VMCOREINFO of a real dump as if npdump didn't know of one of the changes that kernels went through
(makedumpfile had to follow every one of them); what upstream makedumpfile keeps of the unaltered dump is the measure.
"""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from npdump.arch import by_machine
from npdump.bitmap import in_memory
from npdump.errors import NpdumpError
from npdump.kernel.probe import find_kernel
from npdump.observer import Recorder
from npdump.pages.scan import DEFAULT_WINDOW_NPAGES, open_scan
from npdump.pages.selfcheck import Trust, trusted_scan
from npdump.sources import open_source
from npdump.storage.file import FileStorage
from tests import harness

LEVEL = 31
NAMES = ("x86_64-5.10", "x86_64-6.12", "x86_64-7.2")
#: Two flags may be set on nearly the same pages (PG_lru and PG_referenced): what sets them apart can't be told.
FEW = 100


def kept_with(path, alter):
    """What npdump keeps with an altered VMCOREINFO, bool by page frame, and what it said; None if it refused."""
    said = Recorder()
    with closing(FileStorage(str(path))) as storage:
        source = open_source(storage)
        text = alter(source.notes.vmcoreinfo.decode()).encode()
        source = replace(source, notes=source.notes._replace(vmcoreinfo=text))
        arch = by_machine(source.header)
        try:
            kernel = find_kernel(source, arch, required=True, observer=said)
            trust = Trust(LEVEL, said.warn, is_strict=False)

            def open_at(known, level):
                return open_scan(
                    source, known, level, DEFAULT_WINDOW_NPAGES, in_memory, said.warn, lambda done, total: None
                )

            scan = trusted_scan(source, kernel, trust, open_at)
            (window,) = scan.windows()
        except NpdumpError as error:
            return None, [str(error)]
        return np.unpackbits(window.kept.packed, bitorder="little")[: scan.max_mapnr].astype(bool), said.warnings


def without(*keys):
    """Leave keys out."""
    return lambda text: re.sub(rf"^(?:{'|'.join(map(re.escape, keys))})=.*\n", "", text, flags=re.MULTILINE)


def with_value(key, value):
    """Give a key another value; a key that isn't there is added."""

    def alter(text):
        new, n = re.subn(rf"^{re.escape(key)}=.*\n", f"{key}={value}\n", text, flags=re.MULTILINE)
        return new if n else f"{text}{key}={value}\n"

    return alter


def moved(key, by):
    """Move an offset or a number."""

    def alter(text):
        return re.sub(
            rf"^{re.escape(key)}=(-?\d+)$", lambda match: f"{key}={int(match[1]) + by}", text, flags=re.MULTILINE
        )

    return alter


ALTERATIONS = {
    "none": lambda text: text,
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
    "6.16: unaccepted isn't told": without("NUMBER(PAGE_UNACCEPTED_MAPCOUNT_VALUE)"),
    "4.16: order moved": moved("OFFSET(page.compound_order)", 1),
    "order isn't told": without("OFFSET(page.compound_order)", "OFFSET(page.compound_dtor)"),
    "4.10: swapbacked isn't told": without("NUMBER(PG_swapbacked)"),
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
    **{f"PG_swapcache is {bit}": with_value("NUMBER(PG_swapcache)", bit) for bit in (0, 3, 6, 9, 12)},
    **{f"PG_swapbacked is {bit}": with_value("NUMBER(PG_swapbacked)", bit) for bit in (2, 5, 9, 12)},
    **{f"PG_head is {bit}": with_value("NUMBER(PG_head_mask)", 1 << bit) for bit in (2, 3, 5, 6, 9, 15, 16, 17)},
    **{f"PG_hwpoison is {bit}": with_value("NUMBER(PG_hwpoison)", bit) for bit in (2, 9, 12, 23)},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ALTERATIONS)
def test_no_page_is_lost_in_silence(distilled, name, case):
    kept, said = kept_with(distilled(name), ALTERATIONS[case])
    if kept is None:
        return
    wanted = harness.reference(name).kept(LEVEL & ~1)
    n = min(len(wanted), len(kept))
    lost = wanted[:n] & ~kept[:n]
    assert lost.sum() <= FEW, f"{lost.sum()} pages lost, first {np.flatnonzero(lost)[:5]}; npdump said: {said}"


@pytest.mark.parametrize("name", NAMES)
def test_no_doubt_about_a_kernel_that_is_known(distilled, name):
    kept, said = kept_with(distilled(name), ALTERATIONS["none"])
    wanted = harness.reference(name).kept(LEVEL & ~1)
    n = min(len(wanted), len(kept))
    assert said == []
    assert np.array_equal(kept[:n], wanted[:n])


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
    assert "the kernel counts" in result.stderr
