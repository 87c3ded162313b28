# SPDX-License-Identifier: GPL-2.0-or-later
"""``-g VMCOREINFO -x VMLINUX``: what a vmlinux tells, as a text file for ``-i``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npdump.kernel.facts import vmcoreinfo
from npdump.kernel.facts.vmlinux import read_vmlinux
from npdump.sinks.file import FileSink
from npdump.storage.file import FileStorage

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["run"]

PAGE_SIZE = 4096
"""No debug information tells it; the dump does."""


def run(options: Options, report: Reporter) -> None:
    """Write the file."""
    assert options.vmlinux is not None and options.new_vmcoreinfo is not None
    given = read_vmlinux(options.vmlinux, options.work_dir)
    vmlinux = FileStorage(options.vmlinux)
    sink = FileSink(options.new_vmcoreinfo, options.force, [vmlinux], keep_away=True)
    try:
        sink.write(0, vmcoreinfo.format_text(given.facts, PAGE_SIZE).encode())
        sink.close()
    except BaseException:
        sink.discard()
        raise
    finally:
        vmlinux.close()
    report.message(f"\nThe vmcoreinfo is saved to {options.new_vmcoreinfo}.\n\nnpdump Completed.")
