# SPDX-License-Identifier: GPL-2.0-or-later
"""npdump on machines that were built for the purpose, held against the scalar oracle."""

import pytest

from tests import synthetic
from tests.builders import oracle
from tests.builders.vmcore import build
from tests.readers import open_dump
from tests.readers.compare import difference
from tests.readers.validate import problems

LEVELS_WITH_CONTENT = (0, 31)
#: Pages compared byte for byte at most, spread over the dump.
MOST_PAGES = 5_000


@pytest.mark.parametrize("name", synthetic.CASES)
def test_kept_pages_are_the_oracles(name, npdump, tmp_path):
    case = synthetic.CASES[name]
    description = case.describe()
    vmcore = build(tmp_path / "vmcore", description)
    judge = oracle.of(vmcore)
    for level in case.levels:
        path = tmp_path / f"dump-{level}"
        result = npdump("-l", "-d", str(level), *case.options, vmcore.path, path)
        assert result.returncode == 0, f"level {level}: {result.stderr}"
        dump = open_dump(path)
        assert problems(path) == []
        assert difference(dump.bitmap1, vmcore.bitmap1) == "", f"bitmap 1 at level {level}"
        assert difference(dump.bitmap2, judge.kept(level, vmcore.has_data)) == "", f"level {level}"
        assert dump.fields["dump_level"] == level
        assert dump.notes == vmcore.notes
        assert dump.vmcoreinfo == vmcore.vmcoreinfo
        assert dump.utsname["release"] == description.kernel.release
        if level in LEVELS_WITH_CONTENT:
            pages = dump.kept.tolist()
            pages = pages[:: len(pages) // MOST_PAGES + 1]
            assert [pfn for pfn in pages if dump.page(pfn) != vmcore.page(pfn)] == []
        path.unlink()


@pytest.mark.parametrize("name", ["kernel-6.12", "above-4g", "straddling-pages", "filtered-before", "notes"])
@pytest.mark.parametrize("level", [0, 31])
def test_elf_has_every_kept_page(name, level, npdump, tmp_path):
    vmcore = build(tmp_path / "vmcore", synthetic.CASES[name].describe())
    result = npdump("-E", "-d", str(level), vmcore.path, tmp_path / "dump")
    assert result.returncode == 0, result.stderr
    dump = open_dump(tmp_path / "dump")
    assert problems(tmp_path / "dump") == []
    assert dump.notes == vmcore.notes
    assert difference(dump.bitmap1 & ~vmcore.only_begun, vmcore.bitmap1) == ""
    kept = oracle.of(vmcore).kept(level, vmcore.has_data).nonzero()[0].tolist()
    assert [pfn for pfn in kept if dump.page(pfn) != vmcore.page(pfn)] == []
    if level == 31:
        assert (tmp_path / "dump").stat().st_size < vmcore.path.stat().st_size
