# SPDX-License-Identifier: GPL-2.0-or-later
"""npdump's doubts about its own result: a kind of page that doesn't stand a check is kept, or is an error.

Two checks are made before anything is written: a sample of the struct pages must make sense
(`npdump.pages.selfcheck.struct_pages`), and as many free pages must be found as the kernel's zones count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import FactError
from npdump.kernel.kernel import Kernel
from npdump.kernel.memmap import find
from npdump.kernel.nodes import count_free
from npdump.pages.policy import DumpLevel, PageClass
from npdump.pages.scan import PageScan
from npdump.pages.selfcheck.struct_pages import ALL, CHECKED, Doubt, survey
from npdump.pages.struct_page import describe

if TYPE_CHECKING:
    from npdump.sources import Source

__all__ = ["Trust", "doubt_free", "trusted_scan"]

_FREE_SLACK = 0.02
_FREE_SLACK_NPAGES = 64
_FREE_SLACK_PER_CPU = 125 * 4
"""A CPU keeps up to 125 pages of each zone's count to itself (Linux ``mm/vmstat.c``), and doesn't stop at once."""


OpenAt = Callable[[Kernel | None, int], PageScan]


class Trust:
    """What of a dump level is trusted, as checks go on.

    Parameters
    ----------
    level : int
        The dump level asked for.
    warn : callable
        Takes a line about a doubt.
    is_strict : bool
        Make doubt an error.

    Attributes
    ----------
    level : int
        The dump level without what is in doubt.
    forgotten : list of str
        Keys of facts that aren't to be believed.
    is_blind : bool
        No struct page is to be believed.
    """

    def __init__(self, level: int, warn: Callable[[str], None], is_strict: bool) -> None:
        self.level = self._asked = level
        self._warn = warn
        self._is_strict = is_strict
        self._checks: list[str] = []
        self.forgotten: list[str] = []
        self.is_blind = False

    def take(self, doubts: list[Doubt], check: str) -> None:
        """Note the outcome of a check.

        Raises
        ------
        FactError
            If there is doubt about what the level asks for, and that's to be an error.
        """
        for doubt in doubts:
            in_doubt = doubt.level & (self._asked | ALL & ~CHECKED)
            if not in_doubt and doubt.forget is None:
                continue
            words = _name(in_doubt) or _name(ALL & ~CHECKED)
            if self._is_strict:
                raise FactError(f"self-check: {doubt.why}: {words} are in doubt (without --strict they are kept)")
            self._warn(f"self-check: {doubt.why}: {words} are kept")
            self.level &= ~in_doubt
            self.is_blind |= bool(in_doubt & ~CHECKED)
            if doubt.forget is not None:
                self.forgotten.append(doubt.forget)
        self._checks.append(check)

    def in_one_line(self) -> str:
        """Say what was checked and what is trusted."""
        trusted = self.level & CHECKED
        if not self._checks or not self._asked & CHECKED:
            return "Self-check: nothing to check"
        return f"Self-check ({', '.join(self._checks)}): trusted are {_name(trusted) or 'none'}"


def _name(level: int) -> str:
    return ", ".join(words for bit, words in _WORDS.items() if level & bit)


_WORDS = {
    int(DumpLevel.CACHE): "cache pages",
    int(DumpLevel.CACHE_PRIVATE): "private cache pages",
    int(DumpLevel.USER): "user pages",
    int(DumpLevel.FREE): "free pages",
    ALL & ~CHECKED: "broken and offline pages",
}


def trusted_scan(source: Source, kernel: Kernel | None, trust: Trust, open_at: OpenAt) -> PageScan:
    """Open a scan that leaves out nothing that is in doubt.

    Parameters
    ----------
    source : Source
    kernel : Kernel or None
    trust : Trust
    open_at : callable
        Opens a scan of a kernel (None: one of which nothing is known) at a dump level.

    Raises
    ------
    FactError, AddressError, MemmapError
        If the pages can't be told apart, or doubt is to be an error.
    """
    if kernel is None or not trust.level & CHECKED:
        return open_at(kernel, trust.level)
    page = describe(kernel.facts, kernel.memory.space.byte_order, kernel.arch.bits)
    kernel = kernel._replace(memmap=find(kernel, page.nbytes, source.max_mapnr))
    trust.take(survey(source, kernel, page), "struct pages")
    if trust.is_blind:
        return open_at(None, trust.level)
    kernel = kernel._replace(facts=kernel.facts.without(trust.forgotten))
    scan = open_at(kernel, trust.level)
    is_whole = np.array_equal(source.ram_runs, source.data_runs)
    if trust.level & DumpLevel.FREE and scan.has_one_window and is_whole:
        for _ in scan.windows():
            pass  # it's kept for the writer, which doesn't scan again
        n_counted = count_free(kernel)
        if n_counted is not None:
            doubt = doubt_free(int(scan.counts[PageClass.FREE]), n_counted, source.notes.n_cpus)
            trust.take([doubt] if doubt else [], "free pages")
            if doubt:
                return open_at(kernel, trust.level)
    return scan


def doubt_free(n_found: int, n_counted: int, n_cpus: int) -> Doubt | None:
    """Hold the free pages that were found against those that the kernel counts."""
    slack = max(_FREE_SLACK * n_counted, _FREE_SLACK_NPAGES + _FREE_SLACK_PER_CPU * n_cpus)
    if abs(n_found - n_counted) <= slack:
        return None
    return Doubt(DumpLevel.FREE, f"{n_found} pages were found to be free, but the kernel counts {n_counted}")
