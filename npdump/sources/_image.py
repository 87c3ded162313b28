# SPDX-License-Identifier: GPL-2.0-or-later
"""A physical memory image as a value: what its format's module found out when it opened the file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from npdump.arrays import subtract
from npdump.layouts.elf import PF_RWX
from npdump.layouts.machine import Machine, machine_named
from npdump.layouts.machine import page_size_of as fitting_page_size
from npdump.sources import SEGMENT
from npdump.sources._notes import page_size_of, with_text, without_eraseinfo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from npdump.arrays import U8, Records, Runs
    from npdump.sources import CompressedPages, Header, History, Loss, NoteArea, VmcoreinfoText
    from npdump.sources._erased import ErasePlan
    from npdump.storage.file import FileRange

__all__ = ["Image", "Pages", "segments_of"]


class Pages(Protocol):
    """Hands out pages; see the methods of `npdump.sources.Source`."""

    def view(self, paddr: int, nbytes: int) -> U8: ...

    def maybe_nonzero(self, runs: Runs) -> Runs: ...

    def gather(self, runs: Runs, out: U8) -> Sequence[Loss]: ...


@dataclass(frozen=True, eq=False)
class Image:
    """See `npdump.sources.Source`.

    ``pages`` reads what the methods return. ``with_page_size`` makes the image of the same file with other pages, where
    nothing but VMCOREINFO tells their size; ``with_machine`` the one of another machine, where that changes more than
    its name.
    """

    path: str
    format_name: str
    header: Header
    page_size: int
    notes: NoteArea
    segments: Records
    max_mapnr: int
    ram_runs: Runs
    data_runs: Runs
    history: History
    pages: Pages
    compressed: CompressedPages | None = None
    with_page_size: Callable[[int], Image] | None = None
    with_machine: Callable[[Machine], Image] | None = None

    def view(self, paddr: int, nbytes: int) -> U8:
        """See `npdump.sources.Source.view`."""
        return self.pages.view(paddr, nbytes)

    def maybe_nonzero(self, runs: Runs) -> Runs:
        """See `npdump.sources.Source.maybe_nonzero`."""
        return self.pages.maybe_nonzero(runs)

    def gather(self, runs: Runs, out: U8) -> Sequence[Loss]:
        """See `npdump.sources.Source.gather`."""
        return self.pages.gather(runs, out)

    def file_range(self, pfn_start: int, pfn_stop: int) -> FileRange | None:
        """See `npdump.sources.Source.file_range`."""
        find = getattr(self.pages, "file_range", None)
        found: FileRange | None = find and find(pfn_start, pfn_stop)
        return found

    def with_vmcoreinfo(self, text: VmcoreinfoText) -> Image:
        """See `npdump.sources.Source.with_vmcoreinfo`."""
        image = self
        stated = page_size_of(text.text)
        page_size = self.page_size if stated is None else fitting_page_size(self.header.machine, stated)
        if self.with_page_size is not None and page_size != self.page_size:
            image = self.with_page_size(page_size)
        notes = with_text(image.notes, text, image.header.byte_order)
        return replace(image, notes=notes)

    def as_machine(self, name: str) -> Image:
        """See `npdump.sources.Source.as_machine`."""
        machine = machine_named(name) or Machine(0, self.header.bits, name)
        if self.with_machine is not None:
            return self.with_machine(machine)
        return replace(self, header=self.header._replace(machine=machine.number, uname=name))

    def without(self, pfn_start: int, pfn_stop: int) -> Image:
        """See `npdump.sources.Source.without`."""
        left_out = np.array([[pfn_start, pfn_stop]])
        return replace(self, ram_runs=subtract(self.ram_runs, left_out), data_runs=subtract(self.data_runs, left_out))

    def erasing(self, plan: ErasePlan) -> Image:
        """See `npdump.sources.Source.erasing`."""
        from npdump.sources._erased import ErasedCompressedPages, ErasedPages  # seldom needed

        compressed = self.compressed and ErasedCompressedPages(self.compressed, plan, self.page_size)
        return replace(
            self,
            pages=ErasedPages(self.pages, plan, self.page_size),
            compressed=compressed,
            notes=without_eraseinfo(self.notes, self.header.byte_order),
            history=self.history._replace(eraseinfo=_lines(self.history.eraseinfo) + plan.text),
        )


def _lines(text: bytes) -> bytes:
    """Return a text whose last line has an end."""
    return text if not text or text.endswith(b"\n") else text + b"\n"


def segments_of(ram_runs: Runs, page_size: int) -> Records:
    """Return memory as an ELF file of it would have it, where the file has no segments."""
    segments = np.zeros(len(ram_runs), SEGMENT)
    segments["paddr"] = ram_runs[:, 0] * page_size
    segments["flags"] = PF_RWX
    segments["filesz"] = segments["memsz"] = (ram_runs[:, 1] - ram_runs[:, 0]) * page_size
    return segments
