# SPDX-License-Identifier: GPL-2.0-or-later
"""Input formats, one file each: physical memory images, uninterpreted.

A source knows which page frames a dump holds and hands out their bytes; it doesn't know what a kernel is. To add a
format, add a module with a ``FORMAT`` object: nothing else needs an edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from npdump import plugins
from npdump.errors import UnknownFormat
from npdump.sources._values import (
    SEGMENT,
    CompressedPages,
    Header,
    History,
    Loss,
    NoteArea,
    PageLocations,
    VmcoreinfoText,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from npdump.arrays import U8, Records, Runs
    from npdump.sources._erased import ErasePlan
    from npdump.storage import Storage
    from npdump.storage.file import FileRange

__all__ = [
    "HEAD_NBYTES",
    "SEGMENT",
    "CompressedPages",
    "Format",
    "Header",
    "History",
    "Joinable",
    "Loss",
    "NoteArea",
    "PageLocations",
    "Source",
    "VmcoreinfoText",
    "detect",
    "find_vmcoreinfo_texts",
    "open_source",
    "refuse",
]


class Source(Protocol):
    """A physical memory image; its attributes never change.

    Attributes
    ----------
    path : str
    format_name : str
        The input format in words.
    header : Header
    page_size : int
        Bytes.
    notes : NoteArea
    segments : ndarray of dtype SEGMENT
        In file order; they may overlap and begin or end inside a page.
    max_mapnr : int
        One more than the highest page frame.
    ram_runs : ndarray of shape (k, 2), dtype int64
        Page frames that the image holds, or held before it was filtered; disjoint, ascending.
    data_runs : ndarray of shape (k, 2), dtype int64
        Page frames of which any byte is in the file.
    history : History
    compressed : CompressedPages or None
        The pages as they are stored, where the file holds compressed ones.
    """

    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def format_name(self) -> str: ...  # noqa: D102
    @property
    def header(self) -> Header: ...  # noqa: D102
    @property
    def page_size(self) -> int: ...  # noqa: D102
    @property
    def notes(self) -> NoteArea: ...  # noqa: D102
    @property
    def segments(self) -> Records: ...  # noqa: D102
    @property
    def max_mapnr(self) -> int: ...  # noqa: D102
    @property
    def ram_runs(self) -> Runs: ...  # noqa: D102
    @property
    def data_runs(self) -> Runs: ...  # noqa: D102
    @property
    def history(self) -> History: ...  # noqa: D102
    @property
    def compressed(self) -> CompressedPages | None: ...  # noqa: D102

    def view(self, paddr: int, nbytes: int) -> U8:
        """Return the bytes ``[paddr, paddr + nbytes)``, without a copy where they are together in the file.

        Raises
        ------
        AddressError
            If a page of that range is not in the dump; `LostPage` if it should be, and can't be had. Bytes of a partly
            dumped page that no segment covers are 0.
        """

    def maybe_nonzero(self, runs: Runs) -> Runs:
        """Return the page frames of ``runs`` that may hold anything but zeros, as far as is known without reading."""

    def gather(self, runs: Runs, out: U8) -> Sequence[Loss]:
        """Copy pages into an array.

        Parameters
        ----------
        runs : ndarray of shape (k, 2), dtype int64
            Page frames; disjoint, ascending.
        out : ndarray of shape (n, page_size), dtype uint8
            Their pages, in order.

        Returns
        -------
        sequence of Loss
            The pages that can't be had, by ascending row: those rows of ``out`` are 0. Nearly always there are none.

        Raises
        ------
        AddressError
            If a page is not in the dump.
        """

    def file_range(self, pfn_start: int, pfn_stop: int) -> FileRange | None:
        """Return where these pages stand as they are, one after the other in a file; None where they do not."""

    def without(self, pfn_start: int, pfn_stop: int) -> Source:
        """Return the same image as if it had no page frames ``[pfn_start, pfn_stop)``."""

    def erasing(self, plan: ErasePlan) -> Source:
        """Return the same image with bytes overwritten in all that is read of it, and what was erased in its history.

        Its notes no longer have the text of what was erased before: ``history.eraseinfo`` has both.
        """

    def as_machine(self, name: str) -> Source:
        """Return the same image as one of the machine that ``uname -m`` calls so, whatever the file says."""

    def with_vmcoreinfo(self, text: VmcoreinfoText) -> Source:
        """Return the same image with another text for its VMCOREINFO; its notes get one that they do not have."""


class Format(Protocol):
    """What a module of this package offers as ``FORMAT``."""

    name: str

    def sniff(self, head: bytes) -> bool:
        """Tell from the first bytes whether a file is of this format; never raises."""

    def open(self, storage: Storage) -> Source:
        """Open a file that `sniff` accepted.

        Raises
        ------
        SourceError
            If it's damaged or truncated.
        """

    def incomplete_mark(self, head: bytes) -> tuple[int, bytes]:
        """Return what has to be written at which offset of a file so that it says that it is incomplete.

        Parameters
        ----------
        head : bytes
            The first `HEAD_NBYTES` bytes, fewer of a shorter file.

        Raises
        ------
        CorruptDump
            If the head is none of this format, or only a part of one.
        """


@runtime_checkable
class Joinable(Protocol):
    """A format in which one dump may be in several files."""

    def join(self, storages: Sequence[Storage]) -> Source:
        """Open the parts of a dump, in any order; raises as `Format.open` does."""


HEAD_NBYTES = 4096 + 8
"""How many bytes of a file tell its format."""


def open_source(*storages: Storage) -> Source:
    """Recognise the format of a file by its content and open it.

    Parameters
    ----------
    *storages : Storage
        The file, or all parts of a split dump, in any order.

    Raises
    ------
    UnknownFormat
        If no format fits; formats that npdump knows of but doesn't read are named.
    SourceError
        If the file is damaged or truncated.
    """
    found = [(_recognise(storage), storage) for storage in storages]
    source_format, storage = found[0]
    if len(found) == 1:
        return source_format.open(storage)
    for other, storage in found:
        if other is not source_format or not isinstance(other, Joinable):
            text = f"{storage.path}: several files must be the parts of one split kdump-compressed dump"
            raise UnknownFormat(text, path=storage.path)
    assert isinstance(source_format, Joinable)
    return source_format.join(storages)


def find_vmcoreinfo_texts(source: Source) -> Iterator[VmcoreinfoText]:
    """Yield the texts of VMCOREINFO that a dump has: those of its notes, then those in memory, as they are found.

    Parameters
    ----------
    source : Source

    Yields
    ------
    VmcoreinfoText
        Complete ones: with a page size and symbols. Several may be there: that of a capture kernel, of the kernel
        before a kexec, of a file in the page cache.
    """
    from npdump.sources._vmcoreinfo_scan import find_vmcoreinfo_texts as find

    return find(source)


def refuse(losses: Sequence[Loss]) -> None:
    """Raise the first of the losses, for who can't do without a page.

    Raises
    ------
    LostPage
    """
    for loss in losses:
        raise loss.error


def detect(head: bytes) -> Format | None:
    """Return the format of files that begin with these bytes, None if it's none."""
    source_format: Format
    for source_format in plugins.each(__name__, "FORMAT"):
        if source_format.sniff(head):
            return source_format
    return None


def _recognise(storage: Storage) -> Format:
    if not storage.nbytes:
        raise UnknownFormat(f"{storage.path}: is empty: no dump was written to it", path=storage.path)
    head = storage.read(0, min(storage.nbytes, HEAD_NBYTES))
    source_format = detect(head)
    if source_format is not None:
        return source_format
    from npdump.sources._unread import why_unread  # here, as few inputs need it

    raise UnknownFormat(f"{storage.path}: {why_unread(head)}", path=storage.path)
