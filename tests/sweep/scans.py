# SPDX-License-Identifier: GPL-2.0-or-later
"""What npdump keeps of a dump, by class, held against what it keeps when VMCOREINFO is true."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.errors import NpdumpError
from npdump.observer import Recorder
from npdump.opened import Opened
from npdump.pages.scan import open_scan
from npdump.pages.selfcheck import checked_scan

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

LEVELS = (31, 16, 15, 8, 2, 1)

#: By which words a warning is about the pages that a dump level leaves out.
_WORDS = {
    16: re.compile(r"free|unaccepted|zone|buddy"),
    8: re.compile(r"user|anonymous|huge|compound"),
    6: re.compile(r"cache|LRU|compound"),
    0: re.compile(r"broken|offline|poison"),
    None: re.compile(r"section|memory map|struct pages|not memory"),
}
_ALL = re.compile(r"whatever their kind|no struct page is to be believed")


class Kept(NamedTuple):
    """Pages that stay, and what was said; `pages` is None where the dump was refused."""

    pages: npt.NDArray[np.bool_] | None
    said: list[str]
    page_nbytes: int = 0

    def in_pages_of(self, nbytes: int, n: int) -> npt.NDArray[np.bool_]:
        """Which of the first `n` pages of another size stay as a whole."""
        assert self.pages is not None
        pages: npt.NDArray[np.bool_] = self.pages
        if self.page_nbytes > nbytes:
            pages = np.repeat(pages, self.page_nbytes // nbytes)
        elif self.page_nbytes < nbytes:
            ratio = nbytes // self.page_nbytes
            pages = np.asarray(_padded(pages, -(-len(pages) // ratio) * ratio).reshape(-1, ratio).all(axis=1))
        return _padded(pages, n)[:n]


class Outcome(NamedTuple):
    """What a change led to.

    `kind` is one of refused, warned, harmless, extra (more kept, without a word), lost (pages lost without a word about
    their class), traceback, hang, crash, memory.
    """

    kind: str
    level: int = 0
    n_pages: int = 0
    detail: str = ""


def keep(path: Path, level: int, is_checked: bool = True) -> Kept:
    """Return what a dump of a level keeps; without the self-check what it would keep then."""
    listener = Recorder()
    said = listener.warnings
    with Opened(path, observer=listener) as dump:
        try:
            source = dump.source
            kernel = dump.find_kernel(required=level > 1, observer=listener)
            if kernel is not None and kernel.p2m is not None:
                source = kernel.p2m.frames  # the kernel ran in a domain of Xen, whose page frames are its own
            if is_checked:
                scan = checked_scan(source, kernel, level, listener).scan
            else:
                scan = open_scan(source, kernel, level, listener)
            (window,) = scan.windows()
        except NpdumpError as error:
            return Kept(None, [str(error)])
        pages = np.unpackbits(window.kept.packed, bitorder="little")[: scan.max_mapnr].astype(bool)
        if n_unreadable := scan.totals().n_unreadable:
            said.append(f"{n_unreadable} struct pages couldn't be read: their pages are kept")
    return Kept(pages, said, source.page_size)


class Reference:
    """What npdump keeps of an unchanged dump, at each level."""

    def __init__(self, path: Path, levels: tuple[int, ...]) -> None:
        self.kept = {level: keep(path, level) for level in levels}
        assert all(kept.pages is not None for kept in self.kept.values()), self.kept
        (self.page_nbytes,) = {kept.page_nbytes for kept in self.kept.values()}
        # Broken and offline pages, which each level leaves out that looks at struct pages.
        others = [self.kept[other].pages for other in (2, 8, 16) if other in self.kept]
        n = max(len(kept.pages) for kept in self.kept.values() if kept.pages is not None)
        self._never = np.zeros(n, bool)
        if len(others) == 3:
            self._never = ~np.logical_or.reduce([_padded(pages, n) for pages in others if pages is not None])

    def judge(self, path: Path, levels: tuple[int, ...]) -> Outcome:
        """Judge the changed dump at several levels; the worst outcome counts."""
        outcomes = [self._judge_level(path, level) for level in levels]
        return min(outcomes, key=lambda outcome: ("lost", "extra", "warned", "refused", "harmless").index(outcome.kind))

    def _judge_level(self, path: Path, level: int) -> Outcome:
        kept, usual = keep(path, level), self.kept[level]
        if kept.pages is None:
            return Outcome("refused", level, 0, kept.said[0])
        said = [text for text in kept.said if text not in usual.said]
        assert usual.pages is not None
        n = max(len(usual.pages), len(kept.pages) * kept.page_nbytes // self.page_nbytes)
        wanted, pages = _padded(usual.pages, n), kept.in_pages_of(self.page_nbytes, n)
        if level <= 1:
            # A key that makes npdump look at struct pages at these levels too: what it then finds is so.
            wanted &= ~_padded(self._never, n)
        lost = np.flatnonzero(wanted & ~pages)
        n_extra = int((pages & ~wanted).sum())
        if len(lost):
            silent = self._without_a_word(path, level, lost, said)
            if len(silent):
                first = " ".join(f"{pfn:#x}" for pfn in silent[:3].tolist())
                return Outcome("lost", level, len(silent), f"first {first}; said: {'; '.join(said) or 'nothing'}")
        if said:
            return Outcome("warned", level, n_extra, "; ".join(said))
        return Outcome("extra" if n_extra else "harmless", level, n_extra)

    def _without_a_word(self, path: Path, level: int, lost: npt.NDArray[np.int64], said: list[str]) -> npt.NDArray:
        """Return those of the lost pages about whose class nothing was said."""
        text = "\n".join(said)
        if _ALL.search(text):
            return lost[:0]
        silent = np.zeros(len(lost), bool)
        unexplained = np.ones(len(lost), bool)
        for bits, words in _WORDS.items():
            gone = self._is_gone(path, 0 if bits is None else bits & level, lost, is_absent=bits is None)
            unexplained &= ~gone
            if not words.search(text):
                silent |= gone
        return lost[silent | unexplained]

    def _is_gone(self, path: Path, level: int, pfns: npt.NDArray[np.int64], is_absent: bool) -> npt.NDArray[np.bool_]:
        """Whether a level leaves out pages; `is_absent`: whether they aren't looked at at all."""
        kept = keep(path, level, is_checked=False)
        if kept.pages is None:
            return np.zeros(len(pfns), bool)
        beyond = pfns >= len(kept.pages) * kept.page_nbytes // self.page_nbytes
        return beyond if is_absent else ~beyond & ~kept.in_pages_of(self.page_nbytes, int(pfns.max()) + 1)[pfns]


def _padded(pages: npt.NDArray[np.bool_], n: int) -> npt.NDArray[np.bool_]:
    return np.pad(pages, (0, max(n - len(pages), 0)))
