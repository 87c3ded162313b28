# SPDX-License-Identifier: GPL-2.0-or-later
"""Single facts of real dumps changed to what no kernel has: one line about it, and nothing is lost or hangs.

``make sweep`` changes all of them; these are those that once ended in a crash, a hang or a loss.
"""

from __future__ import annotations

import json

import pytest

from tests import harness
from tests.readers import open_dump
from tests.sweep.changes import Change
from tests.sweep.dumps import Altered

I386, S390X, X86 = "machines/i386-6.1-pae", "machines/s390x-6.1-qemu", "x86_64-6.12"
HUGE = (1 << 31) - 1


@pytest.fixture
def altered(tmp_path):
    """Make a copy of a dump with one fact changed."""

    def make(name, key, value):
        copy = Altered(harness.distilled_vmcore(name), tmp_path)
        copy.change(Change(key, str(value), "test"))
        return copy.path

    return make


@pytest.mark.parametrize("name", [I386, S390X, X86])
def test_a_page_size_that_the_machine_has_not(altered, tmp_path, name):
    vmcore = harness.distilled_vmcore(name)
    harness.run_ok("-l", "-d31", vmcore, tmp_path / "true")
    result = harness.run_ok("-l", "-d31", altered(name, "PAGESIZE", 8192), tmp_path / "changed")
    assert "PAGESIZE=8192" in result.stderr
    assert (open_dump(tmp_path / "changed").bitmap2 == open_dump(tmp_path / "true").bitmap2).all()


@pytest.mark.parametrize("seconds", [(1 << 31) + 5, (1 << 32) - 1])
def test_32_bit_machines_crash_after_2038(altered, tmp_path, seconds):
    vmcore = altered(I386, "CRASHTIME", seconds)
    harness.run_ok("-l", "-d31", vmcore, tmp_path / "dump")
    harness.run_ok("-l", "-d31", tmp_path / "dump", tmp_path / "again")
    for name in ("dump", "again"):
        assert open_dump(tmp_path / name).fields["tv_sec"] % (1 << 32) == seconds
    told = json.loads(harness.run_ok("info", "--json", vmcore).stdout)
    assert told["crash_time"].startswith(("2038-", "2106-"))


@pytest.mark.parametrize("seconds", [-1, 1 << 63, 1 << 40])
def test_a_time_that_cannot_be_is_not_used(altered, tmp_path, seconds):
    result = harness.run_ok("-l", "-d31", altered(X86, "CRASHTIME", seconds), tmp_path / "dump")
    assert f"CRASHTIME={seconds}" in result.stderr
    assert open_dump(tmp_path / "dump").fields["tv_sec"] == 0


@pytest.mark.parametrize(
    ("question", "key", "value"),
    [
        ("--dump-dmesg", "OFFSET(printk_info.ts_nsec)", HUGE),
        ("--dump-dmesg", "OFFSET(prb_desc.text_blk_lpos)", HUGE),
        ("--dump-dmesg", "SIZE(prb_desc)", HUGE),
        ("--dump-dmesg", "SIZE(printk_info)", 1 << 40),
        ("--dump-dmesg", "OFFSET(latched_seq.val)", -1),
        ("explain", "NUMBER(PG_lru)", HUGE),
        ("explain", "NUMBER(PG_head_mask)", 1 << 62),
        ("--mem-usage", "LENGTH(zone.free_area)", 33),
        ("--mem-usage", "LENGTH(zone.free_area)", 0),
        ("--mem-usage", "OFFSET(page.lru)", -8),
        ("--vtop", "NUMBER(KERNEL_IMAGE_SIZE)", 1 << 64),
    ],
)
def test_questions_end_soon(altered, question, key, value):
    vmcore = altered(X86, key, value)
    argv = {"explain": ["explain", vmcore, "pfn:0x1234"], "--vtop": ["--vtop", "0xffffffff81000000", vmcore]}
    result = harness.run(*argv.get(question, [question, vmcore]), timeout=30)
    assert result.returncode in (0, 1)
    assert "Traceback" not in result.stderr
    if question != "--dump-dmesg" or "latched" not in key:
        assert f"{key}={value}" in result.stderr
