# SPDX-License-Identifier: GPL-2.0-or-later
"""A sample of ``make faults``: system calls that fail once, and signals, leave nothing that looks whole and isn't."""

from __future__ import annotations

import shutil
import signal
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

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace(1) makes system calls fail")


def stage_of(name: str, folder: Path) -> Stage:
    prepare(BY_NAME[name], folder)
    return Stage(BY_NAME[name], folder)


@needs_strace
@pytest.mark.parametrize("name", ["new", "over", "rearrange"])
def test_system_calls_that_fail(name: str, tmp_path: Path) -> None:
    stage = stage_of(name, tmp_path)
    faults = list(stage.faults(max_each=2))
    sample = [faults[n - 1] for n in chosen(len(faults), N_FAULTS)]
    assert len(sample) == N_FAULTS
    assert {str(fault): wrong for fault in sample if (wrong := stage.try_fault(fault))} == {}


@needs_strace
@pytest.mark.parametrize("call", ["close", "rename"])
def test_the_last_system_calls_that_fail(call: str, tmp_path: Path) -> None:
    stage = stage_of("over", tmp_path)
    n = stage.calls()[call]
    assert n
    assert stage.try_fault(Fault(call, n, "EIO")) == []


@needs_strace
@pytest.mark.parametrize("n", [1, 2])
def test_threads_that_can_not_be_started(n: int, tmp_path: Path) -> None:
    stage = stage_of("zlib", tmp_path)
    calls = stage.calls(of_the_process=True)
    call = next(name for name in ("clone3", "clone") if calls[name] >= n)
    assert stage.try_fault(Fault(call, n, "EAGAIN", of_the_process=True)) == []
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
