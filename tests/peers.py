# SPDX-License-Identifier: GPL-2.0-or-later
"""Other programs that read or make dumps, where they are installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

#: The first makedumpfile that knows a generation's struct page; the last number is 1 for what came after the release.
MAKEDUMPFILE_KNOWS = {
    "6.4": (1, 7, 3, 0),
    "6.6": (1, 7, 4, 0),
    "6.9": (1, 7, 6, 0),
    "6.12": (1, 7, 7, 0),
    "7.2": (1, 7, 9, 1),
}


@cache
def _makedumpfile() -> tuple[str | None, tuple[int, int, int, int]]:
    path = os.environ.get("NPDUMP_MAKEDUMPFILE") or shutil.which("makedumpfile")
    if path is None:
        return None, (0, 0, 0, 0)
    result = subprocess.run([path, "-v"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)(\+\+)?", result.stdout + result.stderr)
    assert found, f"{path} -v says {result.stdout}{result.stderr}"
    major, minor, patch, later = found.groups()
    return path, (int(major), int(minor), int(patch), int(later is not None))


def makedumpfile_version() -> tuple[int, int, int, int]:
    """Its numbers, zeros if it isn't installed."""
    return _makedumpfile()[1]


def makedumpfile_for(release: str) -> str:
    """Path of a makedumpfile that knows a kernel of that release; else the test is skipped with a reason."""
    path, version = _makedumpfile()
    if path is None:
        pytest.skip("makedumpfile is not installed")
    kernel = tuple(map(int, release.split(".")[:2]))
    for generation, needed in MAKEDUMPFILE_KNOWS.items():
        if kernel >= tuple(map(int, generation.split("."))) and version < needed:
            pytest.skip(f"makedumpfile {'.'.join(map(str, version[:3]))} doesn't know Linux {generation}")
    return path


def run_makedumpfile(path: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run makedumpfile, which has to work; what it says is in the result."""
    result = subprocess.run([path, *map(os.fspath, args)], capture_output=True, text=True, timeout=300, check=False)
    if "compression unsupported" in result.stderr:
        pytest.skip(re.search(r"\w+ compression unsupported", result.stderr)[0] + f" by {path}")
    assert result.returncode == 0, f"makedumpfile {args}: {result.stdout[-2000:]}{result.stderr[-2000:]}"
    return result


def vmlinux_of(release: str) -> Path:
    """The kernel with its debug information, or a skip that says where it was looked for."""
    places = [Path("/usr/lib/debug/boot") / f"vmlinux-{release}"]
    if directory := os.environ.get("NPDUMP_VMLINUX_DIR"):
        places.insert(0, Path(directory) / release / "vmlinux")
    for place in places:
        if place.exists():
            return place
    pytest.skip(f"no vmlinux of {release} (looked for {', '.join(map(str, places))}; tests/fetch-vmlinux gets one)")
