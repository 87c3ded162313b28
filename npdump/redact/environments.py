# SPDX-License-Identifier: GPL-2.0-or-later
"""Erases environments and arguments of all processes, where the dump level did not leave them out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.kernel.objects import PhysicalRange
    from npdump.redact import Ground

WHAT = "environments and command lines of processes"


def erase(ground: Ground) -> Iterator[PhysicalRange]:
    """Yield where they are in physical memory."""
    kernel = ground.kernel
    for task in kernel.tasks(threads=False):
        with ground.missing("processes"):
            if task.mm:
                yield from kernel.user_ranges(task.mm, int(task.mm.arg_start), int(task.mm.env_end))
