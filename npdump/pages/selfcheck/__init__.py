# SPDX-License-Identifier: GPL-2.0-or-later
"""npdump's doubts about its own result: a kind of page that does not stand a check is kept, or is an error.

A kernel may change what its struct pages mean, and its VMCOREINFO may not say so: makedumpfile had to be repaired some
thirty times, mostly after dumps had lost what they should have kept. So a sample of the struct pages must make sense
before anything is left out (`check`), and no more pages may be found free, or broken, than the kernel counts
(`check_free_count`, `check_hwpoison_count`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from npdump.bitmap import Allocate, in_memory
from npdump.errors import AddressError, FactError, MemmapError
from npdump.kernel.memmap import find
from npdump.kernel.nodes import zone_spans
from npdump.observer import SILENT, Observer
from npdump.pages.policy import DumpLevel, PageClass
from npdump.pages.scan import DEFAULT_WINDOW_NPAGES, PageScan, open_scan
from npdump.pages.selfcheck.coverage import check_coverage
from npdump.pages.selfcheck.facts import check_facts
from npdump.pages.selfcheck.findings import CHECKED, Finding, Verdict, announce
from npdump.pages.selfcheck.free_count import check_free_count, edges_of
from npdump.pages.selfcheck.hwpoison_count import check_hwpoison_count
from npdump.pages.selfcheck.struct_pages import check_struct_pages
from npdump.pages.struct_page import describe

if TYPE_CHECKING:
    from npdump.kernel.kernel import Kernel
    from npdump.kernel.nodes import ZoneSpan
    from npdump.sources import Source

__all__ = ["CheckedScan", "Finding", "Verdict", "announce", "check", "check_free_count", "checked_scan"]


class CheckedScan(NamedTuple):
    """A scan that leaves out nothing that is in doubt, and what was found before it."""

    scan: PageScan
    verdict: Verdict


def check(kernel: Kernel | None, source: Source, level: int) -> Verdict:
    """Return what of a dump level is to be trusted, by a sample of the struct pages.

    Parameters
    ----------
    kernel : Kernel or None
        None if nothing is known of it: then there is nothing to check.
    source : Source
    level : int
        Dump level, 0 to 31.

    Raises
    ------
    FactError, AddressError, MemmapError
        If the pages cannot be told apart.
    """
    verdict = Verdict(level, kernel, level)
    if kernel is None:
        return verdict
    try:
        page = describe(kernel.facts, kernel.memory.space.byte_order, kernel.arch.bits)
        kernel = kernel._replace(memmap=find(kernel, page.nbytes, source.max_mapnr))
        coverage = check_coverage(source, kernel, page)
        findings = [
            *check_facts(kernel.facts, kernel.arch.bits),
            *coverage.findings,
            *check_struct_pages(source, kernel, page),
        ]
    except (FactError, AddressError, MemmapError):
        if level & CHECKED:
            raise
        return verdict  # the scan will say so
    return Verdict(level, kernel, level, n_removed=coverage.n_removed).having(findings, "struct pages")


def checked_scan(
    source: Source,
    kernel: Kernel | None,
    level: int,
    observer: Observer = SILENT,
    *,
    strict: bool = False,
    window_npages: int = DEFAULT_WINDOW_NPAGES,
    allocate: Allocate = in_memory,
) -> CheckedScan:
    """Open a scan that leaves out nothing that is in doubt, and say what is.

    Parameters
    ----------
    source : Source
    kernel : Kernel or None
    level : int
        Dump level, 0 to 31.
    observer : Observer, optional
    strict : bool, optional
        Make doubt an error.
    window_npages, allocate
        See `npdump.pages.scan.open_scan`.

    Raises
    ------
    FactError, AddressError, MemmapError
        If the pages cannot be told apart, or doubt is to be an error.
    """
    verdict = check(kernel, source, level)
    announce(verdict, observer, strict=strict)
    zones = zone_spans(kernel) if kernel is not None and level & DumpLevel.FREE else None

    def open_at(verdict: Verdict) -> PageScan:
        return open_scan(
            source,
            verdict.kernel,
            verdict.level,
            observer,
            window_npages=window_npages,
            allocate=allocate,
            # That of a confidential guest must not be read, whatever is in doubt about free pages.
            drops_unaccepted=bool(verdict.asked & DumpLevel.FREE),
            edges=edges_of(zones or []),
        )

    scan = open_at(verdict)
    # With several windows, a count would take a pass over all struct pages that nothing else needs.
    if verdict.kernel is None or not scan.has_one_window or not (verdict.level & DumpLevel.FREE or scan.finds_hwpoison):
        return CheckedScan(scan, verdict)
    counted = _held_against_counts(verdict, scan, zones, source)
    announce(counted, observer, strict=strict, n_known=len(verdict.findings))
    new = counted.findings[len(verdict.findings) :]
    is_changed = any(finding.level & level or finding.ignored_fact for finding in new)
    return CheckedScan(open_at(counted) if is_changed else scan, counted)


def _held_against_counts(verdict: Verdict, scan: PageScan, zones: list[ZoneSpan] | None, source: Source) -> Verdict:
    """Return the verdict after what was found is held against the kernel's own counts."""
    assert verdict.kernel is not None
    totals, kernel = scan.totals(), verdict.kernel
    if zones and verdict.level & DumpLevel.FREE:
        verdict = verdict.having(check_free_count(totals, zones, kernel, source), "free pages")
    if totals.counts[PageClass.HWPOISON]:
        verdict = verdict.having(check_hwpoison_count(scan, kernel, source), "broken pages")
    return verdict
