# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines with a lot of memory: what is found in them, by npdump and by makedumpfile, is what was built."""

import re

import numpy as np
import pytest

from tests import harness
from tests.builders import large
from tests.builders.kernels import KERNELS
from tests.builders.vmcore import build
from tests.peers import makedumpfile_for, run_makedumpfile
from tests.readers import open_dump
from tests.readers.compare import difference

GIB = 1 << 30
KERNEL = KERNELS["6.1"]
#: Lines of the report, which is the same in both programs, and the oracle's classes that they count.
LINES = {
    "Non-private cache pages": "cache",
    "Private cache pages": "cache_private",
    "User process data pages": "user",
    "Free pages": "free",
    "Hwpoison pages": "hwpoison",
    "Offline pages": "offline",
}
REPORT = ("--dry-run", "--show-stats", "--message-level", "20")  # errors, and the report


def expected(vmcore, level: int) -> dict[str, int]:
    counts = large.count_classes(vmcore.pages, KERNEL, vmcore.loads, level)
    return {line: counts[name] for line, name in LINES.items()}


def counted(report: str) -> dict[str, int]:
    return {line: int(re.search(rf"^ *{line} *: (0x[0-9a-f]+)$", report, re.MULTILINE)[1], 16) for line in LINES}


@pytest.fixture(scope="module")
def vmcore(tmp_path_factory):
    """32 GiB, with the memory that a real machine's struct pages take."""
    return build(tmp_path_factory.mktemp("large") / "vmcore", large.describe(32 * GIB))


# Levels that drop free pages: any other one would read all of the memory.
@pytest.mark.parametrize("options", [["-d16"], ["-d24"], ["-d30"], ["-d30", "--cyclic-buffer", "256"]], ids=" ".join)
def test_npdump_counts_what_was_built(vmcore, options):
    level = int(options[0][2:])
    result = harness.run_ok(*REPORT, *options, vmcore.path)
    assert counted(result.stdout) == expected(vmcore, level)
    assert result.stderr == "", "the self-check has no doubts"


@pytest.mark.parametrize("level", [16, 24, 30])
def test_makedumpfile_counts_what_was_built(vmcore, level, tmp_path):
    program = makedumpfile_for(KERNEL.release)
    result = run_makedumpfile(program, *REPORT, "-d", str(level), vmcore.path, tmp_path / "dump")
    assert counted(result.stdout) == expected(vmcore, level)


def test_every_page_is_kept_or_not_as_built(vmcore, tmp_path):
    harness.run_ok("-l", "-d", "31", vmcore.path, tmp_path / "dump")
    dump = open_dump(tmp_path / "dump")
    kept = np.zeros(vmcore.max_mapnr, bool)
    for number, present, classes in large.classify(vmcore.pages, KERNEL, vmcore.loads, 30):
        first = number * large.PAGES_PER_SECTION
        kept[first : first + large.PAGES_PER_SECTION] = present & (classes == 0)
    assert difference(dump.bitmap2, kept) == ""


def test_a_terabyte(tmp_path):
    """Addresses up to there, in two banks of memory: as much between them would be more of the same."""
    description = large.describe(1024 * GIB, has_memmap=False, hole=(64 * GIB, 960 * GIB))
    vmcore = build(tmp_path / "vmcore", description)
    assert vmcore.path.stat().st_blocks * 512 < 64 << 20
    result = harness.run_ok(*REPORT, "-d", "30", vmcore.path)
    assert counted(result.stdout) == expected(vmcore, 30)
    assert result.stderr == ""
