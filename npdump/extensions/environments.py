# SPDX-License-Identifier: GPL-2.0-or-later
"""Erases the environments and arguments of all processes, which often hold passwords and tokens."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from npdump.errors import AddressError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.kernel.objects import Crashed, PhysicalRange


def erase(kernel: Crashed) -> Iterator[PhysicalRange]:
    """Yield where they are in physical memory: they are user memory, which a dump at level 0 to 7 has."""
    for task in kernel.tasks(threads=False):
        with suppress(AddressError):
            if task.mm:
                yield from kernel.user_ranges(task.mm, int(task.mm.arg_start), int(task.mm.env_end))
