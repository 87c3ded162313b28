# SPDX-License-Identifier: GPL-2.0-or-later
"""The builders and the oracle against makedumpfile: what judges npdump is judged first."""

import pytest

from tests import synthetic
from tests.builders import oracle
from tests.builders.vmcore import build
from tests.peers import makedumpfile_for, run_makedumpfile
from tests.readers import open_dump
from tests.readers.compare import difference
from tests.readers.validate import problems

COMPARABLE = [name for name, case in synthetic.CASES.items() if not case.upstream and not case.options]


@pytest.mark.parametrize("name", COMPARABLE)
def test_makedumpfile_agrees_with_the_oracle(name, tmp_path):
    case = synthetic.CASES[name]
    description = case.describe()
    program = makedumpfile_for(description.kernel.release)
    vmcore = build(tmp_path / "vmcore", description)
    judge = oracle.of(vmcore, oracle.MAKEDUMPFILE)
    for level in case.levels:
        run_makedumpfile(program, "-f", "-l", "-d", str(level), vmcore.path, tmp_path / "dump")
        dump = open_dump(tmp_path / "dump")
        sure = ~vmcore.only_begun
        assert difference(dump.bitmap1 & sure, vmcore.bitmap1) == "", f"bitmap 1 at level {level}"
        assert difference(dump.bitmap2 & sure, judge.kept(level, vmcore.has_data)) == "", f"level {level}"
        assert dump.vmcoreinfo == vmcore.vmcoreinfo
    pages = dump.kept.tolist()
    assert [pfn for pfn in pages if dump.page(pfn) != vmcore.page(pfn)] == []
    assert problems(tmp_path / "dump") == []
