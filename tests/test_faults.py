# SPDX-License-Identifier: GPL-2.0-or-later
"""A sample of ``make faults``: system calls that fail once, and signals, leave nothing that looks whole and isn't."""

from __future__ import annotations

import re
import shutil
import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.faults.injection import Fault, Stage, chosen
from tests.faults.judge import faults_of, state_of
from tests.faults.scenarios import SCENARIOS, prepare
from tests.faults.signals import duration, moments, try_signal

if TYPE_CHECKING:
    from pathlib import Path

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
N_FAULTS = 10
N_SIGNALS = 4
LONG_ENOUGH = 120

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace(1) makes system calls fail")


def stage_of(name: str, folder: Path) -> Stage:
    prepare(BY_NAME[name], folder)
    return Stage(BY_NAME[name], folder)


@pytest.mark.parametrize("name", ["new", "over", "rearrange", "dmesg"])
def test_calls_that_fail(name: str, tmp_path: Path, tool) -> None:
    tool("gcc")
    stage = stage_of(name, tmp_path)
    faults = list(stage.faults(max_each=2))
    sample = [faults[n - 1] for n in chosen(len(faults), N_FAULTS)]
    assert len(sample) == N_FAULTS
    assert {str(fault): wrong for fault in sample if (wrong := stage.try_fault(fault))} == {}


@pytest.mark.parametrize("call", ["close", "rename"])
def test_the_last_calls_that_fail(call: str, tmp_path: Path, tool) -> None:
    tool("gcc")
    stage = stage_of("over", tmp_path)
    n = stage.n_calls[call]
    assert n
    assert stage.try_fault(Fault(call, n, "EIO")) == []


def test_every_status_that_can_not_be_had(tmp_path: Path, tool) -> None:
    tool("gcc")
    stage = stage_of("new", tmp_path)
    faults = [Fault("fstat", n + 1, "ENOMEM") for n in range(stage.n_calls["fstat"])]
    assert len(faults) > 2
    assert {str(fault): wrong for fault in faults if (wrong := stage.try_fault(fault))} == {}


SYSTEM_CALLS = {
    "openat": "open",
    "pread64": "pread",
    "preadv2": "preadv",
    "pwrite64": "pwrite",
    "fallocate": "fallocate",
    "ftruncate": "ftruncate",
    "close": "close",
    "fsync": "fsync",
    "flock": "flock",
    "rename": "rename",
}


@needs_strace
def test_no_call_on_a_file_is_passed_over(tmp_path: Path, tool) -> None:
    """What fails is called by a name in the C library; strace sees the system calls behind it."""
    tool("gcc")
    stage = stage_of("sync", tmp_path)
    log = tmp_path / "work" / "log"
    paths = [word for name in ("v", "out", "out.part", "") for word in ("-P", str(tmp_path / name).rstrip("/"))]
    calls = ",".join(SYSTEM_CALLS)
    with stage.start(["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={calls}", *paths]) as process:
        _, stderr = process.communicate(timeout=LONG_ENOUGH)
    assert process.returncode == 0, stderr
    found = Counter(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE))
    assert found["pwrite64"] > 10 and found["rename"] == 1 and found["fsync"] > 1
    assert {name: found[name] for name in SYSTEM_CALLS} == {
        name: stage.n_calls[call] for name, call in SYSTEM_CALLS.items()
    }


@needs_strace
@pytest.mark.parametrize("n", [1, 2])
def test_threads_that_can_not_be_started(n: int, tmp_path: Path) -> None:
    stage = stage_of("zlib", tmp_path)
    calls = stage.process_calls()
    call = next(name for name in ("clone3", "clone") if calls[name] >= n)
    assert stage.try_process_fault(Fault(call, n, "EAGAIN")) == []
    assert state_of(tmp_path / "out") == stage.wanted["out"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("name", ["new", "over"])
def test_signals_at_any_moment(name: str, number: signal.Signals, tmp_path: Path) -> None:
    stage = stage_of(name, tmp_path)
    for at in moments(duration(stage), N_SIGNALS, number):
        assert try_signal(stage, number, at)[1] == []


def test_what_looks_whole_and_is_not_is_seen(tmp_path: Path) -> None:
    """The judge itself: a dump in which a page is another one, and one that ends early."""
    stage = stage_of("new", tmp_path)
    data = bytearray((tmp_path / "out").read_bytes())
    data[-100] ^= 0xFF
    (tmp_path / "out").write_bytes(data)
    assert faults_of(stage.scenario, tmp_path, 1, "npdump: why\n", stage.wanted, is_killed=False)
    (tmp_path / "out").write_bytes(data[: len(data) // 2])
    assert faults_of(stage.scenario, tmp_path, 1, "npdump: why\n", stage.wanted, is_killed=False)
    (tmp_path / "out").unlink()
    assert state_of(tmp_path / "out") == "missing"
    assert faults_of(stage.scenario, tmp_path, 1, "npdump: why\n", stage.wanted, is_killed=False) == []
