# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of results."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

__all__ = ["RESULT", "Row", "cells", "description", "name_of", "update"]

RESULT = "## Last result"


class Row(NamedTuple):
    """One line of the table; ratios are makedumpfile / npdump, so that more is better, but for size."""

    what: str
    ratio: float
    low: float
    high: float
    goal: float | None
    theirs_seconds: float
    ours_seconds: float
    startup_seconds: float
    size_ratio: float | None = None
    peak_mib: float | None = None


def name_of(vmcore: str) -> str:
    """Return what the table calls a vmcore."""
    return Path(vmcore).name.removesuffix(".vmcore").removeprefix("x86_64-")


HEADER = ("what", "ratio", "spread", "goal", "theirs [s]", "ours [s]", "start-up off [s]", "size", "PSS [MiB]")


def cells(row: Row) -> tuple[str, ...]:
    """Return a line of the table."""
    return (
        row.what,
        f"{row.ratio:.2f}",
        f"{row.low:.2f}-{row.high:.2f}",
        "" if row.goal is None else f"{row.goal:.2f}",
        f"{row.theirs_seconds:.2f}",
        f"{row.ours_seconds:.2f}",
        f"{row.startup_seconds:.2f}",
        "" if row.size_ratio is None else f"{row.size_ratio:.3f}",
        "" if row.peak_mib is None else f"{row.peak_mib:.0f}",
    )


def description(makedumpfile: str) -> str:
    """Say what machine this is and what it's doing."""
    cpu_lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":")[1].strip() for line in cpu_lines if "model name" in line), "unknown CPU")
    load = os.getloadavg()[0]
    version = subprocess.run([makedumpfile, "-v"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return (
        f"{time.strftime('%Y-%m-%d')}, {len(os.sched_getaffinity(0))} CPUs ({platform.machine()}, {model}), "
        f"Linux {platform.release()}, Python {platform.python_version()}, load {load:.1f}, "
        f"{version}"
    )


def update(file: Path, what: str, found: list[Row]) -> None:
    """Replace all that is below the heading `RESULT` of a text by a line and the table."""
    lines = ["| " + " | ".join(line) + " |" for line in (HEADER, ["---"] * len(HEADER), *map(cells, found))]
    text = file.read_text(encoding="utf-8")
    kept = text[: text.index(RESULT) + len(RESULT)]
    file.write_text(f"{kept}\n\n{what}\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
