# SPDX-License-Identifier: GPL-2.0-or-later
"""``--mem-usage``: what the pages of a running kernel, or of a dump, are used for."""

from __future__ import annotations

import json
import os
import re
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from npdump import arrays
from npdump.bitmap import in_file, in_memory
from npdump.cli.commands.crashed import open_crashed
from npdump.encode.batches import BATCH_NBYTES, batches, is_zero, read_pages
from npdump.errors import SourceError
from npdump.pages.policy import PageClass
from npdump.pages.scan import DEFAULT_WINDOW_NPAGES, PageScan, open_scan
from npdump.storage.file import page_buffer

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter
    from npdump.sources import Source

__all__ = ["run"]

KCORE = "/proc/kcore"
IOMEM = "/proc/iomem"
_EVERY_KIND = 31
_STAGE = "Counting pages"

_ROWS = (
    ("ZERO", "yes", "Pages filled with zero"),
    ("NON_PRI_CACHE", "yes", "Cache pages without private flag"),
    ("PRI_CACHE", "yes", "Cache pages with private flag"),
    ("USER", "yes", "User process pages"),
    ("FREE", "yes", "Free pages"),
    ("KERN_DATA", "no", "Dumpable kernel data "),
)
"""As makedumpfile prints them; pages that are broken or offline have no row."""


def run(options: Options, report: Reporter) -> None:
    """Classify all pages at level 31 and print the table."""
    with open_crashed(options, report) as crashed:
        source = crashed.source
        if options.vmcore is not None and os.path.realpath(options.vmcore) == KCORE:
            source = _without_crash_kernel(source, report)
        scan = open_scan(
            source,
            crashed.kernel,
            _EVERY_KIND,
            DEFAULT_WINDOW_NPAGES,
            in_file(options.work_dir) if options.work_dir else in_memory,
            report.warning,
            lambda done, total: None,
        )
        n_zero = count_zero(source, scan, partial(report.progress, _STAGE))
        page_size = source.page_size
        n_ram = arrays.count(source.ram_runs)
        n_data = arrays.count(source.data_runs)
    count = {page_class: int(scan.counts[page_class]) for page_class in PageClass}
    pages = {
        "ZERO": n_zero,
        "NON_PRI_CACHE": count[PageClass.CACHE],
        "PRI_CACHE": count[PageClass.CACHE_PRIVATE],
        "USER": count[PageClass.USER],
        "FREE": count[PageClass.FREE] + count[PageClass.UNACCEPTED],
    }
    n_unsafe = count[PageClass.HWPOISON] + count[PageClass.OFFLINE]
    if n_data < n_ram:
        report.warning(f"{source.path}: {n_ram - n_data} of {n_ram} pages aren't in it, and in no row")
    pages["KERN_DATA"] = n_data - sum(pages.values()) - n_unsafe
    if options.json:
        numbers = {name.lower(): number for name, number in pages.items()}
        total = {"page_size": page_size, "total_pages": n_ram, "total_nbytes": n_ram * page_size}
        report.answer(json.dumps(numbers | {"hwpoison_or_offline": n_unsafe} | total, indent=1))
        return
    lines = ["", "TYPE\t\tPAGES\t\t\tEXCLUDABLE\tDESCRIPTION", "-" * 70]
    for name, is_excludable, words in _ROWS:
        tabs = "\t" if len(name) >= 8 else "\t\t"
        lines.append(f"{name}{tabs}{pages[name]:<16}\t{is_excludable}\t\t{words}")
    lines += [
        "",
        f"page size:\t\t{page_size:<16}",
        f"Total pages on system:\t{n_ram:<16}",
        f"Total size on system:\t{n_ram * page_size:<16} Byte",
    ]
    report.answer("\n".join(lines))


def count_zero(source: Source, scan: PageScan, progress: partial[None]) -> int:
    """Count the pages of zeros among those that the scan keeps."""
    n_zero = 0
    npages = BATCH_NBYTES // source.page_size
    buffer = page_buffer(npages, source.page_size)
    for window in scan.windows():
        for batch in batches(window.kept, 0, npages):
            try:
                rows, pages = read_pages(source, batch, buffer)
            except SourceError:
                continue  # a running kernel may have taken the memory away meanwhile
            n_zero += batch.npages - len(rows) + int(is_zero(pages).sum())
            progress(int(batch.runs[-1, 1]), scan.max_mapnr)
    return n_zero


def _without_crash_kernel(source: Source, report: Reporter) -> Source:
    """Leave out what is reserved for the capture kernel: it isn't in the dump that it would make."""
    try:
        with open(IOMEM, encoding="ascii") as file:
            lines = file.read()
    except OSError as error:
        report.warning(f"{IOMEM}: {error.strerror}: memory reserved for the capture kernel is counted as the kernel's")
        return source
    for start, end in re.findall(r"^\s*([0-9a-f]+)-([0-9a-f]+) : Crash kernel$", lines, re.MULTILINE):
        reserved = np.array([[int(start, 16) // source.page_size, (int(end, 16) + 1) // source.page_size]])
        source.ram_runs = arrays.subtract(source.ram_runs, reserved)
        source.data_runs = arrays.subtract(source.data_runs, reserved)
    return source
