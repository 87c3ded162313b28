# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare two dumps of the same memory, in whatever form each of them is, and say what differs first.

Pages are compared by what a reader of each dump is given: a page of zeros that one dump stores and the other implies
is the same page. Both dumps are streamed, in a few megabytes of memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from npdump.compare._headers import Difference, compare_headers, compare_notes, compare_vmcoreinfo, is_kdump
from npdump.compare._pages import PageSet, compare_pages
from npdump.errors import NpdumpError
from npdump.observer import SILENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from npdump.observer import Observer
    from npdump.pages.table import PageTable
    from npdump.sources import Source

__all__ = ["AREAS", "CannotCompare", "Comparison", "Difference", "PageSet", "compare"]

AREAS = ("memory", "lost", "extra", "changed", "stored", "headers", "notes", "vmcoreinfo")
"""What is compared, by the name that a tolerance has for it."""


class CannotCompare(NpdumpError):
    """Two dumps have too little in common to be compared."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two dumps have in common, and what not.

    Attributes
    ----------
    one, other : str
        The dumps' paths.
    forms : tuple of two str
        Their formats in words.
    n_memory, n_kept : tuple of two int
        Page frames of memory that each dump knows of, and those whose pages it holds.
    n_same : int
        Pages that are in both and hold the same.
    n_implied : int
        Pages of zeros that one dump stores and the other implies: they are the same too.
    memory : PageSet
        Page frames that only one of the dumps takes for memory.
    lost, extra : PageSet
        Pages that only ``one``, or only ``other``, has.
    changed : PageSet
        Pages of which the dumps hold different bytes, or that one of them can not give.
    stored : PageSet or None
        Pages that are stored in other bytes; None if that was not asked for.
    headers, notes, vmcoreinfo : tuple of Difference
    allowed : mapping of str to int
        How many differences of each of `AREAS` are tolerated; none where it says nothing.
    """

    one: str
    other: str
    forms: tuple[str, str]
    n_memory: tuple[int, int]
    n_kept: tuple[int, int]
    n_same: int
    n_implied: int
    memory: PageSet
    lost: PageSet
    extra: PageSet
    changed: PageSet
    stored: PageSet | None
    headers: tuple[Difference, ...]
    notes: tuple[Difference, ...]
    vmcoreinfo: tuple[Difference, ...]
    allowed: Mapping[str, int] = field(default_factory=dict)

    def count(self, area: str) -> int:
        """Return how many differences there are in one of `AREAS`."""
        found = getattr(self, area)
        if found is None:
            return 0
        return found.n_pages if isinstance(found, PageSet) else len(found)

    def is_tolerated(self, area: str) -> bool:
        """Return whether there are no more differences in an area than are allowed."""
        return self.count(area) <= self.allowed.get(area, 0)

    @property
    def is_same(self) -> bool:
        """Whether no area has more differences than are allowed."""
        return all(map(self.is_tolerated, AREAS))


def compare(
    one: Source,
    other: Source,
    *,
    pages: PageTable | None = None,
    compares_stored: bool = False,
    allowed: Mapping[str, int] | None = None,
    observer: Observer = SILENT,
) -> Comparison:
    """Compare two dumps.

    Parameters
    ----------
    one, other : Source
        Two sources that share no file descriptor: they are read by two threads.
    pages : PageTable, optional
        Of one of them, to say what the pages are that differ.
    compares_stored : bool
        Compare the pages' compressed bytes too.
    allowed : mapping of str to int, optional
        How many differences of each of `AREAS` are tolerated.
    observer : Observer

    Raises
    ------
    CannotCompare
        If their pages differ in size, or compressed bytes are to be compared and one of them has none.
    ValueError
        If ``allowed`` names something that is not compared.
    """
    unknown = set(allowed or ()) - set(AREAS)
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: no such area: there are {', '.join(AREAS)}")
    if one.page_size != other.page_size:
        raise CannotCompare(
            f"{one.path} has pages of {one.page_size} bytes, {other.path} of {other.page_size}: "
            "they are not of the same machine"
        )
    for source in (one, other):
        if compares_stored and not is_kdump(source):
            raise CannotCompare(f"{source.path}: is {source.format_name}: it has no compressed pages to compare")
    found = compare_pages(one, other, pages, compares_stored, observer)
    return Comparison(
        one=one.path,
        other=other.path,
        forms=(one.format_name, other.format_name),
        n_memory=found.n_memory,
        n_kept=found.n_kept,
        n_same=found.n_same,
        n_implied=found.n_implied,
        memory=found.memory,
        lost=found.lost,
        extra=found.extra,
        changed=found.changed,
        stored=found.stored,
        headers=compare_headers(one, other),
        notes=compare_notes(one, other),
        vmcoreinfo=compare_vmcoreinfo(one, other),
        allowed=dict(allowed or {}),
    )
