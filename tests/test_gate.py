# SPDX-License-Identifier: GPL-2.0-or-later
"""The gate that facts pass: what real kernels state gets through, what no kernel has does not."""

from __future__ import annotations

import pytest

from npdump.errors import FactError
from npdump.facts import Fact, Facts
from npdump.kernel.facts import vmcoreinfo
from npdump.kernel.facts.gate import pass_gate
from tests import harness
from tests.builders.kernels import KERNELS
from tests.sweep.dumps import names, vmcoreinfo_of

#: Keys with values that no kernel has; the word size is 64 bits unless it is said.
IMPOSSIBLE = [
    ("NUMBER(PG_lru)", 32),
    ("NUMBER(PG_private)", (1 << 31) - 1),
    ("NUMBER(PG_slab)", -1),
    ("NUMBER(PG_head_mask)", 3 << 10),
    ("NUMBER(PG_head_mask)", 0),
    ("NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)", -1),
    ("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", -130),
    ("NUMBER(PAGE_UNACCEPTED_MAPCOUNT_VALUE)", -117440511),
    ("NUMBER(SECTION_SIZE_BITS)", 64),
    ("NUMBER(KERNEL_IMAGE_SIZE)", 1 << 64),
    ("NUMBER(pgtable_l5_enabled)", 2),
    ("NUMBER(VA_BITS)", 64),
    ("LENGTH(zone.free_area)", 33),
    ("LENGTH(zone.free_area)", 0),
    ("LENGTH(free_area.free_list)", 1 << 20),
    ("SIZE(prb_desc)", (1 << 31) - 1),
    ("SIZE(printk_info)", 0),
    ("SIZE(page)", 8192),
    ("SIZE(zone)", 1 << 40),
    ("SIZE(list_head)", 8),
    ("OFFSET(page.lru)", -8),
    ("OFFSET(page.mapping)", (1 << 31) - 1),
    ("OFFSET(page.mapping)", 28),
    ("OFFSET(page._mapcount)", 62),
    ("OFFSET(prb_desc_ring.infos)", 1 << 31),
    ("OFFSET(uts_namespace.name)", -1),
    ("CRASHTIME", 1 << 63),
    ("SYMBOL(prb)", 0),
    ("SYMBOL(prb)", 1 << 64),
]


def facts_of(**values):
    return Facts({key: Fact(value, "VMCOREINFO") for key, value in values.items()}, {})


@pytest.mark.parametrize("name", names())
def test_real_kernels_pass(name):
    facts = vmcoreinfo.parse(vmcoreinfo_of(harness.distilled_vmcore(name)).encode())
    assert len(list(facts.items())) > 60
    assert pass_gate(facts, 32 if "i386" in name else 64).rejected == {}


@pytest.mark.parametrize("name", KERNELS)
def test_every_generation_passes(name):
    numbers = {key: value for key, value in KERNELS[name].vmcoreinfo().items() if isinstance(value, int)}
    assert pass_gate(facts_of(**numbers), 64).rejected == {}


@pytest.mark.parametrize(("key", "value"), IMPOSSIBLE)
def test_what_no_kernel_has_does_not_pass(key, value):
    facts = pass_gate(facts_of(**{key: value, "SIZE(page)": 64} | {key: value}), 64)
    assert list(facts.rejected) == [key]
    assert key in facts.rejected[key]
    assert key not in facts
    assert facts.get(key, 5) is None
    with pytest.raises(FactError, match="no kernel has"):
        facts.need(key, "for a test")


def test_32_bit_kernels_have_their_own_ranges():
    good = {"SIZE(list_head)": 8, "OFFSET(page.mapping)": 28, "SYMBOL(prb)": 0xC1234560, "SIZE(page)": 40}
    assert pass_gate(facts_of(**good), 32).rejected == {}
    assert list(pass_gate(facts_of(**{"SYMBOL(prb)": 1 << 32}), 32).rejected) == ["SYMBOL(prb)"]


def test_what_was_rejected_may_come_from_elsewhere():
    damaged = pass_gate(facts_of(**{"NUMBER(PG_lru)": 99}), 64)
    completed, conflicts = damaged.completed_by(facts_of(**{"NUMBER(PG_lru)": 4}))
    assert completed.get("NUMBER(PG_lru)") == 4
    assert completed.rejected == {}
    assert conflicts == []


def test_a_size_without_room_for_two_members_is_what_is_wrong():
    stated = {"SIZE(page)": 32, "OFFSET(page._refcount)": 52, "OFFSET(page._mapcount)": 48, "OFFSET(page.flags)": 0}
    facts = pass_gate(Facts({key: Fact(value, "VMCOREINFO") for key, value in stated.items()}, {}), 64)
    assert list(facts.rejected) == ["SIZE(page)"]
    assert "no room for OFFSET(page._refcount)=52 and OFFSET(page._mapcount)=48" in facts.rejected["SIZE(page)"]
    alone = {"SIZE(page)": 64, "OFFSET(page._refcount)": 152, "OFFSET(page._mapcount)": 48}
    facts = pass_gate(Facts({key: Fact(value, "VMCOREINFO") for key, value in alone.items()}, {}), 64)
    assert list(facts.rejected) == ["OFFSET(page._refcount)"]
