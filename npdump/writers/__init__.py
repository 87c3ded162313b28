# SPDX-License-Identifier: GPL-2.0-or-later
"""Output formats, one file each: they say which bytes stand where, and leave the writing to a sink.

To add a format, add a module with a ``WRITER`` class: nothing else needs an edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from npdump import plugins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from npdump.arrays import Runs
    from npdump.codecs import Codec
    from npdump.encode.job import Done
    from npdump.kernel.kernel import Kernel
    from npdump.layouts import ByteOrder
    from npdump.observer import Observer
    from npdump.pages.scan import PageScan
    from npdump.sinks import Sink
    from npdump.sources import Source

__all__ = ["DumpPlan", "WriteOptions", "Writer", "get"]


class DumpPlan(NamedTuple):
    """What is to be written.

    Attributes
    ----------
    source : Source
    kernel : Kernel or None
        None if the dump doesn't tell enough of it.
    scan : PageScan
        Says which pages stay.
    level : int
        Dump level, for its bit 0 (zero pages) and for the header.
    machine : int
        ELF ``e_machine`` of the dumped kernel.
    bits : {32, 64}
        Word size of the dumped kernel.
    byte_order : {"<", ">"}
        Of the dumped kernel.
    aligns_u64 : bool
        See `npdump.arch.Arch`.
    first_pfn : int
        The page frame that the dump file counts as 0; a multiple of 8.
    utsname : tuple of six bytes
        sysname, nodename, release, version, machine, domainname.
    phys_base : int
    timestamp : int
        Seconds since 1970 at which the kernel crashed, 0 if that isn't known.
    part : tuple of two int, or None
        Page frames ``[start, stop)`` whose pages go into this file, one of a split dump; ``start`` is a multiple of 64.
    drops_memmap : bool
        Whether struct pages of pages that are left out are left out.
    find_first : callable or None
        Returns which page frames to write before all others, where the format lets pages be in any order: a list of
        runs, those of the first before those of the next one. No page frame is in two of them.
    """

    source: Source
    kernel: Kernel | None
    scan: PageScan
    level: int
    machine: int
    bits: int
    byte_order: ByteOrder
    aligns_u64: bool
    first_pfn: int
    utsname: tuple[bytes, ...]
    phys_base: int
    timestamp: int
    part: tuple[int, int] | None = None
    drops_memmap: bool = False
    find_first: Callable[[], Sequence[Runs]] | None = None

    @property
    def drops_zero(self) -> bool:
        """Whether zero pages are left out."""
        return bool(self.level & 1)


class WriteOptions(NamedTuple):
    """How the work is done; nothing of it changes what the dump file says.

    Attributes
    ----------
    codec : Codec
    engine : str or None
        Which of the codec's engines.
    codec_level : int or None
        Which of the codec's levels.
    n_threads : int or None
        None: as many as pay.
    batch_npages : int
    observer : Observer
    share : bool
        Store equal pages once, where the format can.
    copy_compressed : bool
        Copy compressed pages of the input as they are, whatever their compression.
    format : str
        Name of the module of this package that writes.
    max_lost : int or None
        How many pages that can't be had are no reason to stop; None: any number.
    verify : bool
        Uncompress pages that are copied as they are, only to see that they can be.
    vital_first : bool
        Write the pages that a debugger cannot start without before all others, where the format can.
    deadline : float or None
        When to end, whole or not, by `time.monotonic`.
    keep_interrupted : bool
        Leave what was written when an interrupt comes, marked as incomplete; otherwise nothing is left.
    """

    codec: Codec
    engine: str | None
    n_threads: int | None
    batch_npages: int
    observer: Observer
    share: bool = True
    copy_compressed: bool = False
    format: str = "kdump"
    codec_level: int | None = None
    verify: bool = True
    max_lost: int | None = None
    keep_interrupted: bool = True
    vital_first: bool = False
    deadline: float | None = None


class Writer(Protocol):
    """One dump on its way into a file of this format.

    Making one looks at the whole dump but writes nothing, so that bad input is met before any output exists.

    Attributes
    ----------
    n_pages : int
        Pages that `write` will report as done.
    n_zero : int
        Zero pages left out so far.
    n_shared : int
        Pages so far that are stored once with an equal one.
    n_lost : int
        Pages so far that should be in the file and can't be had.
    n_unreadable : int
        Those of them that the system couldn't read; the others are damaged in the input.
    n_left_out : int or None
        Pages that the file won't hold, where the format can't leave out each page alone.
    """

    n_pages: int
    n_zero: int
    n_shared: int
    n_lost: int
    n_unreadable: int
    n_left_out: int | None

    def __init__(self, dump: DumpPlan, options: WriteOptions) -> None: ...

    def begin(self, sink: Sink) -> int:
        """Write all that comes before the pages, marked as incomplete if that can be undone; return how many bytes."""

    def write(self, sink: Sink) -> Iterator[Done]:
        """Write the pages."""

    def end(self, sink: Sink) -> None:
        """Mark the file as complete."""

    def mark_incomplete(self, sink: Sink) -> None:
        """Make the best of a file that got no further."""


def get(name: str) -> type[Writer]:
    """Return the writer of a format; its name is that of its module."""
    writer: type[Writer] = plugins.get(__name__, name, "WRITER")
    return writer
