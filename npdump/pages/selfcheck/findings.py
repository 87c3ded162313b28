# SPDX-License-Identifier: GPL-2.0-or-later
"""What a self-check found, and what of a dump level is trusted after it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from npdump.errors import FactError
from npdump.pages.policy import DumpLevel

if TYPE_CHECKING:
    from npdump.kernel.kernel import Kernel
    from npdump.observer import Observer

__all__ = ["ALL", "CACHE", "CHECKED", "UNSAFE_PAGES", "Finding", "Verdict", "announce"]

CACHE = DumpLevel.CACHE | DumpLevel.CACHE_PRIVATE
CHECKED = CACHE | DumpLevel.USER | DumpLevel.FREE
"""Bits of a dump level that depend on what struct pages mean."""

UNSAFE_PAGES = 1 << 5
"""Broken and offline pages, which have no bit in a dump level."""

ALL = CHECKED | UNSAFE_PAGES

_LABELS = {
    int(DumpLevel.CACHE): "cache pages",
    int(DumpLevel.CACHE_PRIVATE): "private cache pages",
    int(DumpLevel.USER): "user pages",
    int(DumpLevel.FREE): "free pages",
    UNSAFE_PAGES: "broken and offline pages",
}

_LABELS_BY_FACT = {
    "NUMBER(PG_hwpoison)": "broken pages",
    "NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)": "offline pages",
    "NUMBER(PAGE_UNACCEPTED_MAPCOUNT_VALUE)": "pages that the guest hasn't accepted",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A doubt about a kind of page.

    Attributes
    ----------
    level : int
        Bits of the dump level that are not to be trusted, and `UNSAFE_PAGES`.
    reason : str
    ignored_fact : str or None
        Key of the fact that is not to be used for that, if it is one.
    pages : str or None
        What is kept, where neither of these says it.
    """

    level: int
    reason: str
    ignored_fact: str | None = None
    pages: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is trusted of a dump level.

    Attributes
    ----------
    asked : int
        The dump level that was asked for.
    kernel : Kernel or None
        Without the facts that are not to be used; None if no struct page is to be believed.
    level : int
        The dump level without what is in doubt.
    findings : tuple of Finding
        Those that matter for the dump level asked for.
    checked : tuple of str
        What was looked at.
    n_removed : int
        Pages that are in the dump although the kernel had given them away: no reason for doubt, and kept.
    """

    asked: int
    kernel: Kernel | None
    level: int
    findings: tuple[Finding, ...] = ()
    checked: tuple[str, ...] = ()
    n_removed: int = 0

    def having(self, findings: list[Finding], checked: str) -> Verdict:
        """Return the verdict after one more check.

        Parameters
        ----------
        findings : list of Finding
            What it found; empty if nothing.
        checked : str
            What was looked at.
        """
        asked = self.asked & CHECKED | UNSAFE_PAGES
        new = [finding for finding in findings if finding.level & asked or finding.ignored_fact or finding.pages]
        doubtful = 0
        for finding in new:
            doubtful |= finding.level
        kernel = self.kernel
        if doubtful & UNSAFE_PAGES:
            kernel = None
        elif kernel is not None:
            ignored = [finding.ignored_fact for finding in new if finding.ignored_fact is not None]
            kernel = kernel._replace(facts=kernel.facts.without(ignored))
        level = self.level & ~doubtful
        return replace(
            self,
            kernel=kernel,
            level=level,
            findings=(*self.findings, *new),
            checked=(*self.checked, checked),
        )

    def words(self, finding: Finding) -> str:
        """Return the names of the pages that a finding makes npdump keep."""
        if finding.pages is not None:
            return finding.pages
        if finding.ignored_fact is not None:
            return _LABELS_BY_FACT[finding.ignored_fact]
        return label(finding.level & (self.asked & CHECKED | UNSAFE_PAGES))

    @property
    def summary(self) -> str:
        """What was checked and what is trusted, in one line."""
        if not self.checked or not self.asked & CHECKED:
            return "Self-check: nothing to check"
        removed = f"; {self.n_removed} pages of memory that was taken away are kept" if self.n_removed else ""
        return f"Self-check ({', '.join(self.checked)}): trusted are {label(self.level & CHECKED) or 'none'}{removed}"


def label(level: int) -> str:
    """Return the names of the pages that bits of a dump level leave out."""
    return ", ".join(words for bit, words in _LABELS.items() if level & bit)


def announce(verdict: Verdict, observer: Observer, *, strict: bool, n_known: int = 0) -> None:
    """Say what was found.

    Parameters
    ----------
    verdict : Verdict
    observer : Observer
    strict : bool
        Make doubt an error.
    n_known : int, optional
        Findings that were said before.

    Raises
    ------
    FactError
        If there is doubt and that is to be an error.
    """
    for finding in verdict.findings[n_known:]:
        words = verdict.words(finding)
        if strict:
            raise FactError(f"self-check: {finding.reason}: {words} are in doubt (without --strict they are kept)")
        observer.warn(f"self-check: {finding.reason}: {words} are kept")
