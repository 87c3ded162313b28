# SPDX-License-Identifier: GPL-2.0-or-later
"""A sample of ``make sweep``: one value of VMCOREINFO changed, and no page lost without a word about its class."""

from __future__ import annotations

import pytest

from tests import harness
from tests.sweep import dumps
from tests.sweep.changes import Change, changes_of
from tests.sweep.scans import keep
from tests.sweep.trials import Bench, try_all

NAMES = dumps.names()
LEVELS = (31,)
N_SAMPLES = 20
GOOD = {"harmless", "extra", "warned", "refused"}
#: Each lost pages once, or ended npdump in a way that nobody wants.
KNOWN = {
    "x86_64-6.12": (
        Change("NUMBER(SECTION_SIZE_BITS)", "26", "- 1"),
        Change("SIZE(mem_section)", "32", "* 2"),
        Change("SIZE(page)", "128", "* 2"),
        Change("NUMBER(PG_hwpoison)", "0", "= 0"),
        Change("NUMBER(PG_hwpoison)", "6", "= 6"),
        Change("NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)", "-1", "= -1"),
        Change("NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)", "-513", "= -513"),
        Change("NUMBER(PAGE_UNACCEPTED_MAPCOUNT_VALUE)", "-1", "= -1"),
        Change("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", "-513", "= -513"),
        Change("OFFSET(page._mapcount)", None, "removed"),
        Change("OFFSET(page.mapping)", "16", "- 8"),
        Change("OFFSET(page.lru)", "-8", "- 16"),
        Change("LENGTH(zone.free_area)", None, "removed"),
        Change("LENGTH(zone.free_area)", "27", "+ 16"),
        Change("OFFSET(printk_info.ts_nsec)", "2147483647", "= 2147483647"),
        Change("PAGESIZE", "8192", "* 2"),
    ),
    "x86_64-7.2": (
        Change("NUMBER(PG_lru)", "2", "= 2"),
        Change("NUMBER(SECTION_SIZE_BITS)", "26", "- 1"),
    ),
    "machines/i386-6.1-pae": (Change("PAGESIZE", "8192", "* 2"),),
    "machines/s390x-6.1-qemu": (Change("PAGESIZE", "8192", "* 2"), Change("SIZE(mem_section)", "32", "* 2")),
    "machines/riscv64-6.12": (Change("OFFSET(page._mapcount)", None, "removed"),),
    "machines/loongarch64-7.2-qemu": (
        Change("NUMBER(PG_swapcache)", "3", "= 3"),
        Change("NUMBER(PG_swapcache)", "4", "= 4"),
    ),
    "machines/ppc64el-6.1": (Change("NUMBER(SECTION_SIZE_BITS)", "23", "- 1"),),
    "machines/arm64-6.1": (Change("NUMBER(SECTION_SIZE_BITS)", "26", "- 1"),),
}


def bad_outcomes(name: str, changes: list[Change]) -> list[str]:
    """What was lost, or went wrong, by any of these changes."""
    trials = try_all(name, harness.distilled_vmcore(name), changes, LEVELS)
    return [f"{trial.change}: {trial.outcome}" for trial in trials if trial.outcome.kind not in GOOD]


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_fact_loses_no_page_without_a_word(name: str) -> None:
    """Those changes that once did, and some of all, in one process for each dump."""
    texts = {other: dumps.vmcoreinfo_of(harness.distilled_vmcore(other)) for other in NAMES}
    changes = changes_of(texts.pop(name), texts)
    step = len(changes) // N_SAMPLES
    assert step > 0
    # Another part of the changes on each dump.
    first = NAMES.index(name) * step // len(NAMES)
    assert bad_outcomes(name, [*KNOWN.get(name, ()), *changes[first::step]]) == []


def test_what_once_lost_pages_is_tried() -> None:
    assert set(KNOWN) <= set(NAMES)


def test_a_loss_is_seen(tmp_path) -> None:
    """The sweep itself: a scan that believes what it's told, and loses what is said to be broken."""
    bench = Bench(harness.distilled_vmcore("x86_64-6.12"), tmp_path, LEVELS)
    bench.altered.change(Change("NUMBER(PG_hwpoison)", "6", "= 6"))
    wanted = bench.reference.kept[31].pages
    unchecked = keep(bench.altered.path, 31, is_checked=False).pages
    assert wanted is not None and unchecked is not None
    assert (wanted & ~unchecked[: len(wanted)]).sum() > 100
