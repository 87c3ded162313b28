# SPDX-License-Identifier: GPL-2.0-or-later
"""Erases free pages that the dump level keeps: CPUs have them on lists of their own, and nothing marks them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import Runs
    from npdump.redact import Ground

WHAT = "free pages on the lists of CPUs"


def erase(ground: Ground) -> Iterator[Runs]:
    """Yield the pages."""
    yield ground.per_cpu_pages * ground.source.page_size
