# SPDX-License-Identifier: GPL-2.0-or-later
"""Erases what free objects in slabs still hold of what they were, but for the links between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import Runs
    from npdump.redact import Ground

WHAT = "free objects in slabs"


def erase(ground: Ground) -> Iterator[Runs]:
    """Yield the bytes of all free objects."""
    found = ground.survey
    if found.n_unread:
        ground.miss("slabs that are not in the dump", found.n_unread)
    if found.n_damaged:
        ground.miss("slabs whose lists of free objects are damaged", found.n_damaged)
    yield found.free
