# SPDX-License-Identifier: GPL-2.0-or-later
"""``--mem-usage``: what the pages of a running kernel, or of a dump, are used for."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

from npdump.cli.inputs import open_dump

if TYPE_CHECKING:
    from npdump.answers.usage import MemoryUsage
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["run"]

KCORE = "/proc/kcore"
IOMEM = "/proc/iomem"

_ROWS = (
    ("ZERO", "yes", "Pages filled with zero"),
    ("NON_PRI_CACHE", "yes", "Cache pages without private flag"),
    ("PRI_CACHE", "yes", "Cache pages with private flag"),
    ("USER", "yes", "User process pages"),
    ("FREE", "yes", "Free pages"),
    ("OFFLINE", "yes", "Offline and broken (hwpoison) pages"),
    ("KERN_DATA", "no", "Dumpable kernel data "),
)
"""As makedumpfile prints them, which has no row for pages that are offline: its rows do not add up."""


def run(options: Options, report: Reporter) -> None:
    """Classify all pages at level 31 and print the table."""
    is_running = os.path.realpath(options.vmcores[0]) == KCORE
    with open_dump(options, report) as dump:
        usage = dump.memory_usage(without=_crash_kernel(report) if is_running else ())
    if usage.n_data < usage.n_ram:
        n_absent = usage.n_ram - usage.n_data
        report.warn(f"{dump.path}: {n_absent} of {usage.n_ram} pages aren't in it, and in no row")
    report.answer(_as_json(usage) if options.json else _as_text(usage))


def _pages(usage: MemoryUsage) -> dict[str, int]:
    excludable = (usage.n_zero, usage.n_cache, usage.n_cache_private, usage.n_user, usage.n_free, usage.n_unsafe)
    return dict(zip((name for name, _, _ in _ROWS), (*excludable, usage.n_kernel), strict=True))


def _as_json(usage: MemoryUsage) -> str:
    derived = {"n_kernel": usage.n_kernel, "memory_nbytes": usage.n_ram * usage.page_size}
    return json.dumps(asdict(usage) | derived, indent=1)


def _as_text(usage: MemoryUsage) -> str:
    pages = _pages(usage)
    lines = ["", "TYPE\t\tPAGES\t\t\tEXCLUDABLE\tDESCRIPTION", "-" * 70]
    for name, is_excludable, words in _ROWS:
        tabs = "\t" if len(name) >= 8 else "\t\t"
        lines.append(f"{name}{tabs}{pages[name]:<16}\t{is_excludable}\t\t{words}")
    lines += [
        "",
        f"page size:\t\t{usage.page_size:<16}",
        f"Total pages on system:\t{usage.n_ram:<16}",
        f"Total size on system:\t{usage.n_ram * usage.page_size:<16} Byte",
    ]
    return "\n".join(lines)


def _crash_kernel(report: Reporter) -> list[tuple[int, int]]:
    """Return the physical addresses reserved for the capture kernel: they aren't in the dump that it would make."""
    try:
        with open(IOMEM, encoding="ascii") as file:
            lines = file.read()
    except OSError as error:
        report.warn(f"{IOMEM}: {error.strerror}: memory reserved for the capture kernel is counted as the kernel's")
        return []
    found = re.findall(r"^\s*([0-9a-f]+)-([0-9a-f]+) : Crash kernel$", lines, re.MULTILINE)
    return [(int(start, 16), int(end, 16) + 1) for start, end in found]
