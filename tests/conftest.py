# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures that every test may use."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from functools import cache
from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("harness", "judging", "peers")

import harness  # noqa: E402  (after its asserts are told to explain themselves)

if TYPE_CHECKING:
    from pathlib import Path

FIXTURES = harness.TESTS / "fixtures"


@pytest.fixture(scope="session")
def npdump():
    """Run npdump with these arguments; see harness.run()."""
    return harness.run


@cache
def _expand():
    path = FIXTURES / "expand.py"
    spec = importlib.util.spec_from_file_location("expand_fixture", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.expand


def expand_distilled(name: str) -> Path:
    """A distilled vmcore, expanded into the cache; what it was made from is part of its name there."""
    sources = [path for path in FIXTURES.glob(f"{name}*") if path.is_file()] + [FIXTURES / "expand.py"]
    version = max(path.stat().st_mtime_ns for path in sources)
    return harness.once(harness.CACHE / "distilled" / f"{name}-{version}.vmcore", lambda part: _expand()(name, part))


@pytest.fixture(scope="session")
def distilled():
    """Path of the distilled vmcore of that name."""
    return expand_distilled


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
