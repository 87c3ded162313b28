# SPDX-License-Identifier: GPL-2.0-or-later
"""What the command line names to be read: a dump, or parts of it, and what is told about its kernel."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from npdump import sources, storage
from npdump.storage import open_storage
from npdump.storage.flattened import is_flattened

if TYPE_CHECKING:
    from contextlib import ExitStack

    from npdump.cli.options import Options
    from npdump.cli.report import Reporter
    from npdump.kernel.facts.external import ExternalFacts
    from npdump.storage.file import Storage

__all__ = ["holds_dump", "load_external", "open_storages"]


def holds_dump(path: str) -> bool:
    """Tell by its beginning whether a file holds a dump, or something compressed that may be one."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            head = file.read(sources.HEAD_NBYTES)
    except OSError:
        return False
    return is_flattened(head) or storage.detect(head) is not None or sources.detect(head) is not None


def open_storages(options: Options, report: Reporter, stack: ExitStack) -> list[Storage]:
    """Open the files that the command line names: one dump, or parts of it."""
    return [
        open_storage(path, not options.non_mmap, options.work_dir, report.message, stack) for path in options.vmcores
    ]


def load_external(options: Options) -> ExternalFacts | None:
    """Return the facts of the file that the command line gives, None if it gives none."""
    if options.vmlinux is None and options.vmcoreinfo is None:
        return None
    from npdump.kernel.facts.vmlinux import load_external

    return load_external(options)
