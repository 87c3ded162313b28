# SPDX-License-Identifier: GPL-2.0-or-later
"""Open the inputs named on the command line."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from npdump import sources, storage
from npdump.dump import Dump
from npdump.kernel.xen import XenFiles
from npdump.storage.flattened import is_flattened

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["holds_dump", "open_dump"]


def holds_dump(path: str) -> bool:
    """Return whether a file holds a dump, or something compressed that may be one, as far as its beginning tells."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            head = file.read(sources.HEAD_NBYTES) or b""  # None where nothing can be read now
    except OSError:
        return False
    return is_flattened(head) or storage.detect(head) is not None or sources.detect(head) is not None


def open_dump(options: Options, report: Reporter) -> Dump:
    """Open the dump, or the parts of one, that the command line names."""
    return Dump(
        *options.vmcores,
        vmlinux=options.vmlinux,
        vmcoreinfo=options.vmcoreinfo,
        override=options.override,
        vmcoreinfo_at=options.vmcoreinfo_at,
        use_mmap=not options.non_mmap,
        work_dir=options.work_dir,
        machine=options.machine,
        max_unpacked_nbytes=options.max_unpacked_nbytes,
        identity=options.identity,
        xen=XenFiles(options.xen_syms, options.xen_vmcoreinfo, options.xen_phys_start),
        observer=report,
    )
