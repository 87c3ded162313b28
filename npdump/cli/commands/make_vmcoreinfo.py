# SPDX-License-Identifier: GPL-2.0-or-later
"""``-g VMCOREINFO``: what a vmlinux or xen-syms tells, as a text file for ``-i`` or ``--xen-vmcoreinfo``."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from npdump.cli.files import whole_file
from npdump.kernel.facts import vmcoreinfo
from npdump.kernel.facts.vmlinux import read_vmlinux
from npdump.kernel.xen.facts import read_syms
from npdump.storage.file import FileStorage

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["run"]

PAGE_SIZE = 4096
"""No debug information tells it; the dump does."""


def run(options: Options, report: Reporter) -> None:
    """Write the file."""
    path = options.vmlinux or options.xen_syms
    assert path is not None and options.new_vmcoreinfo is not None
    facts = read_syms(path) if options.vmlinux is None else read_vmlinux(path, options.work_dir).facts
    binary = FileStorage(path)
    with closing(binary), whole_file(options.new_vmcoreinfo, options.force, [binary], keep_away=True) as sink:
        sink.write(0, vmcoreinfo.format_text(facts, PAGE_SIZE).encode())
    report.message(f"\nThe vmcoreinfo is saved to {options.new_vmcoreinfo}.\n\nnpdump Completed.")
