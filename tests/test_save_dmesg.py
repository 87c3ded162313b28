# SPDX-License-Identifier: GPL-2.0-or-later
"""--save-dmesg: the log first, then the dump; nothing about the log stops the dump."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from tests import harness
from tests.readers import open_dump

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAME = "x86_64-6.1"


@pytest.fixture(scope="module")
def vmcore(distilled: Callable[[str], Path]) -> Path:
    return distilled(NAME)


def test_the_log_and_then_the_dump(vmcore, tmp_path) -> None:
    log, dump = tmp_path / "log", tmp_path / "dump"
    result = harness.run_ok("-l", "-d", "31", "--save-dmesg", log, vmcore, dump)
    assert log.read_text() == harness.run_ok("--dump-dmesg", vmcore).stdout
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    lines = result.stderr + result.stdout
    assert lines.index(f"The dmesg log is saved to {log}.") < lines.index(f"The dumpfile is saved to {dump}.")
    kept = open_dump(dump).bitmap2
    assert (kept == harness.reference(NAME).kept(31)[: len(kept)]).all()


@pytest.mark.parametrize("case", ["no such folder", "it is there", "no log"])
def test_what_is_wrong_with_the_log_stops_no_dump(case, vmcore, tmp_path) -> None:
    log, source = tmp_path / "log", vmcore
    if case == "no such folder":
        log = tmp_path / "none" / "log"
    elif case == "it is there":
        log.write_text("of an earlier crash")
    else:
        raw = vmcore.read_bytes()
        source = harness.sparse_copy(vmcore, tmp_path / "vmcore", {raw.index(b"SYMBOL(prb)"): b"SYMBOL(xxx)"})
    result = harness.run_ok("-l", "-d", "31", "--save-dmesg", log, source, tmp_path / "dump")
    assert "there is no kernel log, but there will be a dump" in result.stderr
    assert "Traceback" not in result.stderr
    assert open_dump(tmp_path / "dump").bitmap2.sum() == harness.reference(NAME).kept(31).sum()
    if case == "it is there":
        assert log.read_text() == "of an earlier crash"
    else:
        assert not log.exists()


def test_a_dry_run_writes_no_log(vmcore, tmp_path) -> None:
    harness.run_ok("--dry-run", "-d", "31", "--save-dmesg", tmp_path / "log", vmcore)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["-", "dump", "vmcore"])
def test_the_log_has_a_file_of_its_own(name, tmp_path) -> None:
    result = harness.run("--save-dmesg", name, "vmcore", "dump", cwd=tmp_path)
    assert result.returncode == 1
    assert "--save-dmesg: FILE is a file of its own" in result.stderr
