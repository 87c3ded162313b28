# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures that every test may use."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("tests.harness", "tests.judging", "tests.peers")

from tests import harness  # noqa: E402  (after its asserts are told to explain themselves)

if TYPE_CHECKING:
    from pathlib import Path

# A shell's background jobs and nohup(1) ignore these, and so would the programs under test.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def npdump():
    """Run npdump with these arguments; see harness.run()."""
    return harness.run


@pytest.fixture(scope="session")
def distilled():
    """Path of the distilled vmcore of that name."""
    return harness.distilled_vmcore


@pytest.fixture(scope="session")
def corpus():
    """Path of the corpus vmcore of that name; the test is skipped where there is no corpus."""

    def path(name: str) -> Path:
        if harness.find_corpus() is None:
            pytest.skip("no directory of further vmcores (NPDUMP_CORPUS)")
        return harness.corpus_vmcore(name)

    return path


@pytest.fixture(scope="session")
def tool():
    """Path of a program that reads dumps; the test is skipped, with a reason, where it isn't installed."""

    def path(name: str) -> str:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed")
        return found

    return path


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of so many MiB and returns its directory, which is gone when the test has ended."""
    if os.getuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"

    def mount(size_mib: int) -> Path:
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "none", disk]
        mounted = subprocess.run(command, capture_output=True, check=False)
        if mounted.returncode:
            pytest.skip(f"no mount here: {mounted.stderr.decode().strip()}")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", disk], check=True)
