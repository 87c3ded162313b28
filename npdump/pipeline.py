# SPDX-License-Identifier: GPL-2.0-or-later
"""The composition: one opened dump in, one dump file (or its parts) out.

storage → sources → arch → kernel → pages → encode → writers → sinks

What it takes are values: `npdump.dump.Dump` and the command line both come here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from npdump import arrays, codecs, writers
from npdump.bitmap import in_file, in_memory
from npdump.encode.batches import BATCH_NBYTES
from npdump.errors import AddressError, FactError, MemmapError, NoSpace, UsageError
from npdump.kernel.probe import utsname
from npdump.layouts.page_flag import STATUS_EXCLUDED_VMEMMAP
from npdump.observer import SILENT, Observer, Recorder
from npdump.pages.policy import DumpLevel, PageClass
from npdump.pages.scan import DEFAULT_WINDOW_NPAGES, SCAN_STAGE, PageScan
from npdump.pages.selfcheck import CheckedScan, checked_scan
from npdump.summary import Summary
from npdump.writers import DumpPlan, WriteOptions, Writer
from npdump.writers._outputs import COPY_STAGE, write_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from npdump.arch import Arch
    from npdump.arrays import Runs
    from npdump.kernel.kernel import Kernel
    from npdump.kernel.xen.hypervisor import Hypervisor
    from npdump.pages.scan_context import Decide
    from npdump.sinks import Sink
    from npdump.sources import Source
    from npdump.sources._erased import ErasePlan
    from npdump.writers._split import Split

__all__ = ["ScanOptions", "filter_dump", "open_checked_scan", "write_options"]


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """How pages are looked at.

    Attributes
    ----------
    strict : bool
        Make it an error if the result is in doubt; otherwise the pages in doubt are kept.
    window_npages : int
        Page frames whose bitmaps are held at a time.
    work_dir : str or None
        Directory for a temporary file with the bitmaps; None keeps them in memory.
    hypervisor : Hypervisor or None
        Leave out pages of a Xen host that are neither its nor dom0's.
    drops_memmap : bool
        Leave out struct pages of pages that are left out.
    """

    strict: bool = False
    window_npages: int = DEFAULT_WINDOW_NPAGES
    work_dir: str | None = None
    hypervisor: Hypervisor | None = None
    drops_memmap: bool = False


DEFAULT_SCAN = ScanOptions()


def write_options(
    source: Source,
    *,
    codec: str = "raw",
    format: str = "kdump",
    engine: str | None = None,
    codec_level: int | None = None,
    verify: bool = True,
    max_lost: int | None = None,
    n_threads: int | None = None,
    block_order: int = 4,
    share: bool = True,
    reassemble: bool = False,
    keep_interrupted: bool = True,
    vital_first: bool = False,
    deadline: float | None = None,
    observer: Observer = SILENT,
) -> WriteOptions:
    """Return how the work of writing is to be done.

    Parameters
    ----------
    source : Source
    codec, format, engine : str
        By their names.
    max_lost : int or None
        How many pages that can't be had are no reason to stop.
    verify : bool
        Uncompress the pages of an input that are copied as they are, only to see that they can be.
    codec_level : int or None
        One of the codec's levels.
    n_threads : int or None
    block_order : int
        2**block_order pages at least are gathered before they are written.
    share : bool
    reassemble : bool
        Copy the compressed pages of a split dump as they are, into a file that says the same of their compression.
    keep_interrupted, vital_first : bool
    deadline : float or None
        See `npdump.writers.WriteOptions`.
    observer : Observer

    Raises
    ------
    UsageError
        If there is no such codec, level or format.
    MissingDependency
        If the codec's library is not installed.
    """
    try:
        chosen = codecs.get(codec)
        writers.get(format)
    except ModuleNotFoundError as error:
        raise UsageError(f"{codec} compression in {format} format: no such codec or format: {error}") from error
    if reassemble:
        chosen = codecs.by_flag(source.history.codec_flag) or chosen
    else:
        chosen.encoder(
            source.page_size, engine, codec_level
        )  # if its library can't be had, that's said before all else
    return WriteOptions(
        codec=chosen,
        engine=engine,
        codec_level=codec_level,
        verify=verify,
        max_lost=max_lost,
        n_threads=n_threads,
        batch_npages=max(BATCH_NBYTES // source.page_size, 1 << block_order),
        observer=observer,
        share=share,
        copy_compressed=reassemble,
        format=format,
        keep_interrupted=keep_interrupted,
        vital_first=vital_first,
        deadline=deadline,
    )


def filter_dump(
    source: Source,
    arch: Arch,
    kernel: Kernel | None,
    levels: Sequence[int],
    options: WriteOptions,
    open_sinks: Callable[[], Sequence[Sink]],
    *,
    scanning: ScanOptions = DEFAULT_SCAN,
    split: Split | None = None,
    erasing: ErasePlan | None = None,
    decider: Callable[[], Decide] | None = None,
    observer: Observer = SILENT,
) -> Summary:
    """Make a dump file.

    Parameters
    ----------
    source : Source
    arch : Arch
    kernel : Kernel or None
        None if it is not known, or not needed.
    levels : sequence of int
        Dump levels; the next one is tried when the output does not fit.
    options : WriteOptions
    open_sinks : callable
        Makes the outputs, one for each part.
    scanning : ScanOptions
    split : Split or None
        Divide the dump among several outputs.
    erasing : ErasePlan or None
        Bytes that the dump must not have.
    decider : callable or None
        Makes what has the last word about which pages stay, for each dump level that is tried.
    observer : Observer

    Returns
    -------
    Summary

    Raises
    ------
    NpdumpError
        If the input is bad, or the output cannot be written. An output that holds any pages by then is left, marked
        as incomplete; else it is removed.
    """
    recorder = Recorder(observer)
    _report_history(source, levels[0], options.copy_compressed, recorder)
    run = _Run(source, arch, kernel, options, open_sinks, scanning, split, erasing, decider, recorder)
    recorder.debug(f"{source.path}: {source.format_name}, {arch.name}, kernel {run.release or 'unknown'}")
    for level, next_level in pairwise(levels):
        try:
            return run.make(level, can_retry=True)
        except NoSpace as error:
            recorder.warn(f"{error}: trying again with dump level {next_level}")
    try:
        return run.make(levels[-1])
    except NoSpace as error:
        advice = "the dump is cut short, and marked so: make room or raise the dump level"
        raise NoSpace(f"{error}: {advice}") from error


class _Run(NamedTuple):
    """What `filter_dump` was asked for."""

    source: Source
    arch: Arch
    kernel: Kernel | None
    options: WriteOptions
    open_sinks: Callable[[], Sequence[Sink]]
    scanning: ScanOptions
    split: Split | None
    erasing: ErasePlan | None
    decider: Callable[[], Decide] | None
    recorder: Recorder

    @property
    def release(self) -> str | None:
        """The crashed kernel's, if it is known."""
        return self.kernel.facts.release if self.kernel else None

    def make(self, level: int, can_retry: bool = False) -> Summary:
        """Make the dump at one dump level."""
        recorder, source = self.recorder, self.source
        with recorder.stage(SCAN_STAGE):
            asked = level & ~source.history.level
            scan, verdict = open_checked_scan(source, self.kernel, asked, self.scanning, recorder)
            if self.decider is not None:
                scan = scan.deciding(self.decider())
            plan = self._plan(scan, verdict.level | source.history.level)
            plans = [plan]
            if self.split is not None:
                plans = [plan._replace(part=pfns) for pfns in self.split.ranges(scan, source.page_size)]
            parts = [writers.get(self.options.format)(part, self.options) for part in plans]
        recorder.debug(verdict.summary)
        has_all = not source.history.status & STATUS_EXCLUDED_VMEMMAP  # else those that lack are of pages that do, too
        if has_all and (n_unreadable := scan.totals().n_unreadable):
            recorder.warn(f"{n_unreadable} struct pages couldn't be read: their pages are kept")
        with recorder.stage(COPY_STAGE):
            nbytes = write_parts(parts, self.open_sinks(), recorder, can_retry, source.page_size, self.options)
        return self._summary(plan, parts, nbytes, verdict.n_removed)

    def _plan(self, scan: PageScan, level: int) -> DumpPlan:
        source, arch, kernel, history = self.source, self.arch, self.kernel, self.source.history
        return DumpPlan(
            # Pages are told apart by what they hold, and written without what is to be erased.
            source=source if self.erasing is None else source.erasing(self.erasing),
            kernel=kernel,
            scan=scan,
            level=level,
            machine=arch.machine.number or source.header.machine,
            bits=arch.bits,
            byte_order=kernel.memory.space.byte_order if kernel else source.header.byte_order,
            aligns_u64=arch.aligns_u64,
            first_pfn=_first_pfn(source, kernel),
            utsname=utsname(kernel, arch, history.utsname),
            phys_base=arch.phys_base(source, kernel.facts) if kernel else history.phys_base,
            timestamp=(kernel.facts.get("CRASHTIME") if kernel else None) or history.timestamp,
            drops_memmap=self.scanning.drops_memmap and kernel is not None,
            find_first=cache(partial(_vital_pages, scan)) if self.options.vital_first else None,
        )

    def _summary(self, plan: DumpPlan, parts: Sequence[Writer], nbytes: int, n_removed: int) -> Summary:
        source, totals = self.source, plan.scan.totals()
        count = {page_class: int(totals.counts[page_class]) for page_class in PageClass}
        return Summary(
            dump_level=plan.level,
            format=self.options.format,
            codec=self.options.codec.name,
            release=self.release,
            machine=self.arch.name,
            max_mapnr=plan.scan.max_mapnr - plan.first_pfn,
            n_ram=totals.n_ram,
            n_absent=arrays.count(source.ram_runs) - arrays.count(source.data_runs),
            n_zero=sum(writer.n_zero for writer in parts),
            n_removed=n_removed,
            n_guarded=totals.n_guarded,
            n_shared=sum(writer.n_shared for writer in parts),
            n_lost=sum(writer.n_lost for writer in parts),
            n_unreadable=sum(writer.n_unreadable for writer in parts),
            n_cache=count[PageClass.CACHE],
            n_cache_private=count[PageClass.CACHE_PRIVATE],
            n_user=count[PageClass.USER],
            n_free=count[PageClass.FREE] + count[PageClass.UNACCEPTED],
            n_hwpoison=count[PageClass.HWPOISON],
            n_offline=count[PageClass.OFFLINE],
            n_extension=count[PageClass.EXTENSION],
            n_guest=count[PageClass.GUEST],
            n_memmap=count[PageClass.MEMMAP],
            n_elf_excluded=parts[0].n_left_out,
            written_nbytes=nbytes,
            seconds_by_stage=self.recorder.seconds_by_stage,
            warnings=tuple(self.recorder.warnings),
        )


def open_checked_scan(
    source: Source, kernel: Kernel | None, level: int, options: ScanOptions, observer: Observer
) -> CheckedScan:
    """Open a scan that leaves out nothing that is in doubt; `npdump.pages.selfcheck.checked_scan` with options.

    Where the dump lost pages, and with them what tells the rest apart, all of these are kept.
    """
    if options.drops_memmap and kernel is not None and kernel.p2m is not None:
        raise UsageError(f"{source.path}: is of a Xen host: -e is for kernels that run on the machine itself")
    if kernel is not None and kernel.p2m is not None and level <= DumpLevel.ZERO and source.notes.is_completed:
        # As makedumpfile: Xen sees to it that no broken page is read, and dom0 isn't asked unless it has to be.
        kernel = None
    open_at = partial(
        checked_scan,
        source if kernel is None or kernel.p2m is None else kernel.p2m.frames,
        observer=observer,
        strict=options.strict,
        window_npages=options.window_npages,
        allocate=in_file(options.work_dir) if options.work_dir else in_memory,
    )
    if kernel is None:
        found = open_at(None, level & DumpLevel.ZERO)
    else:
        try:
            found = open_at(kernel, level)
        except (FactError, AddressError, MemmapError) as error:
            if options.strict or not source.history.n_lost:
                raise
            observer.warn(f"{error}: pages are kept whatever their kind")
            found = open_at(None, level & DumpLevel.ZERO)
        if kernel.p2m is not None:
            from npdump.pages import xen  # few dumps are of Xen

            found = found._replace(scan=xen.machine_scan(found.scan, kernel.p2m, source))
    if options.hypervisor is not None:
        found = found._replace(scan=_without_guests(found.scan, options.hypervisor, options.strict, observer))
    if options.drops_memmap and kernel is not None:
        from npdump.pages import unused_memmap  # seldom wanted

        found = found._replace(scan=unused_memmap.without_unused(found.scan, kernel, source))
    return found


def _vital_pages(scan: PageScan) -> Sequence[Runs]:
    """Return which pages a debugger needs most, in this order."""
    guard = scan.guard()
    return () if guard is None else guard.in_order()


def _without_guests(scan: PageScan, hypervisor: Hypervisor, strict: bool, observer: Observer) -> PageScan:
    """Leave out what is of other domains than dom0; where Xen's tables make no sense, nothing."""
    from npdump.pages.xen import UserDomains

    try:
        return scan.followed_by(UserDomains(hypervisor))
    except (FactError, AddressError) as error:
        if strict:
            raise
        observer.warn(f"{error}: pages of user domains are kept")
        return scan


def _report_history(source: Source, level: int, reassemble: bool, observer: Observer) -> None:
    """Say what an earlier filter did to the input that the user may not expect."""
    history = source.history
    if level | history.level != level and not reassemble:
        observer.message(
            f"The dump level is changed to {level | history.level}: {source.path} was made with {history.level}."
        )
    for doubt in history.doubts:
        observer.warn(doubt)
    if history.n_lost:
        observer.warn(
            f"{source.path}: is incomplete: {history.n_lost} pages were lost when it was made, or with the file's end; "
            "they are left out"
        )
    if history.missing:
        start, stop = history.missing
        text = f"{source.path}: is split, and the part with the page frames {start:#x} to {stop:#x} is missing"
        if reassemble:
            raise UsageError(f"{text}: name all parts")
        observer.warn(f"{text}: its pages are left out")


def _first_pfn(source: Source, kernel: Kernel | None) -> int:
    """Return the page frame that a dump file counts as 0."""
    if kernel is None or not kernel.arch.counts_from_ram_base:
        return 0
    return kernel.memory.space.ram_base // source.page_size
