# SPDX-License-Identifier: GPL-2.0-or-later
"""The composition: one vmcore in, one dump file out.

storage → source → facts → arch → memory → memmap → pages → bitmap → stream → codec → writer → sink
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from npdump import arrays, codecs, writers
from npdump.arch import Arch, by_machine
from npdump.bitmap import in_file, in_memory
from npdump.cli.inputs import load_external, open_storages
from npdump.cli.outputs import open_sinks, split_npages, split_ranges
from npdump.cli.summary import Summary
from npdump.encode.batches import BATCH_NBYTES
from npdump.encode.job import Seconds
from npdump.errors import NoSpace, SinkError, UsageError
from npdump.kernel.probe import find_kernel, utsname
from npdump.pages.policy import PageClass
from npdump.pages.scan import DEFAULT_WINDOW_NPAGES, PageScan, open_scan
from npdump.pages.selfcheck import Trust, trusted_scan
from npdump.sources import Source, open_source
from npdump.writers import DumpPlan, WriteOptions, Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npdump.cli.options import Options
    from npdump.cli.report import Reporter
    from npdump.kernel.kernel import Kernel
    from npdump.sinks import Sink
    from npdump.storage.file import Storage

__all__ = ["Result", "filter_dump"]

_SCAN = "Excluding unnecessary pages"
_COPY = "Copying data"
_STEPS = ("Reading and comparing", "Compressing", "Writing")
"""Of the copying; those of several workers add up."""


class Result(NamedTuple):
    """What came of a run: the numbers, and what the dump is of."""

    summary: Summary
    release: str | None
    machine: str
    level: int


def filter_dump(options: Options, report: Reporter) -> Result:
    """Make a dump file as the command line says.

    Raises
    ------
    NpdumpError
        If the input is bad, or the output can't be written. An output that holds any pages by then is left, marked
        as incomplete; else it's removed.
    """
    with ExitStack() as stack:
        storages = open_storages(options, report, stack)
        source = open_source(*storages)
        arch = by_machine(source.machine, source.bits)
        levels = (options.dump_level, *options.retry_levels)
        _report_history(source, levels[0], options.reassemble, report)
        kernel = None
        if not options.reassemble:
            level = max(levels) & ~source.history.level
            kernel = find_kernel(source, arch, level, report.warning, load_external(options))
        release = kernel.facts.release if kernel else None
        report.debug(f"{source.path}: {source.format_name}, {arch.name}, kernel {release or 'unknown'}")
        for level, next_level in zip(levels, (*levels[1:], None), strict=True):
            try:
                summary, trusted = _make(options, report, storages, source, arch, kernel, level, next_level is None)
            except NoSpace as error:
                if next_level is None:
                    raise
                report.warning(f"{error}: trying again with dump level {next_level}")
            else:
                return Result(summary, release, arch.name, trusted)
    raise AssertionError("the last dump level either worked or raised")


def _make(
    options: Options,
    report: Reporter,
    storages: Sequence[Storage],
    source: Source,
    arch: Arch,
    kernel: Kernel | None,
    level: int,
    is_last: bool,
) -> tuple[Summary, int]:
    """Make the dump at one dump level; if that's the last to try, what was written by an error is kept.

    Returns
    -------
    Summary
    int
        The dump level of the file: with that of the input, without what is in doubt.
    """
    history = source.history
    with report.stage(_SCAN):
        trust = Trust(level & ~history.level, report.warning, options.strict)
        scan = trusted_scan(source, kernel, trust, partial(_open_scan, source, options, report))
        dump = DumpPlan(
            source=source,
            kernel=kernel,
            scan=scan,
            level=trust.level | history.level,
            bits=arch.bits,
            byte_order=kernel.memory.space.byte_order if kernel else source.byte_order,
            aligns_u64=arch.aligns_u64,
            first_pfn=_first_pfn(source, kernel),
            utsname=history.utsname or utsname(kernel, arch),
            phys_base=arch.phys_base(source, kernel.facts) if kernel else history.phys_base,
            timestamp=(kernel.facts.get("CRASHTIME") if kernel else None) or history.timestamp,
        )
        dumps = [dump]
        if options.split:
            ranges = split_ranges(scan, len(options.dumpfiles), split_npages(options, source.page_size))
            dumps = [dump._replace(part=pfns) for pfns in ranges]
        how = _how(options, source, report)
        dump_writers = [writers.get(options.format)(dump, how) for dump in dumps]
    report.debug(trust.in_one_line())
    if scan.n_unreadable:
        report.warning(f"{scan.n_unreadable} struct pages couldn't be read: their pages are kept")
    with report.stage(_COPY):
        nbytes = _write(report, dump_writers, open_sinks(options, storages), is_last)
    return _summary(dump, dump_writers, nbytes, report), dump.level


def _how(options: Options, source: Source, report: Reporter) -> WriteOptions:
    codec = codecs.get(options.codec)
    if options.reassemble:
        codec = codecs.by_flag(source.history.codec_flag) or codec
    return WriteOptions(
        codec=codec,
        engine=options.zlib_engine if options.codec == "zlib" else None,
        n_workers=options.num_threads,
        batch_npages=max(BATCH_NBYTES // source.page_size, 1 << options.block_order),
        observer=report,
        share=options.share,
        copy_compressed=options.reassemble,
    )


def _report_history(source: Source, level: int, reassemble: bool, report: Reporter) -> None:
    """Say what an earlier filter did to the input that the user may not expect."""
    history = source.history
    if level | history.level != level and not reassemble:
        report.message(
            f"The dump level is changed to {level | history.level}: {source.path} was made with {history.level}."
        )
    if history.n_lost:
        report.warning(
            f"{source.path}: is incomplete: {history.n_lost} pages were lost when it was made; they are left out"
        )
    if history.missing:
        start, stop = history.missing
        text = f"{source.path}: is split, and the part with the page frames {start:#x} to {stop:#x} is missing"
        if reassemble:
            raise UsageError(f"{text}: name all parts")
        report.warning(f"{text}: its pages are left out")


def _open_scan(source: Source, options: Options, report: Reporter, kernel: Kernel | None, level: int) -> PageScan:
    return open_scan(
        source,
        kernel,
        level,
        _window_npages(options),
        in_file(options.work_dir) if options.work_dir else in_memory,
        report.warning,
        partial(report.progress, _SCAN),
    )


def _first_pfn(source: Source, kernel: Kernel | None) -> int:
    """Return the page frame that a dump file counts as 0."""
    if kernel is None or not kernel.arch.counts_from_ram_base:
        return 0
    return kernel.memory.space.ram_base // source.page_size


def _window_npages(options: Options) -> int:
    if options.cyclic_buffer_kib is None:
        return DEFAULT_WINDOW_NPAGES
    return options.cyclic_buffer_kib * 1024 * 8


def _write(report: Reporter, dump_writers: Sequence[Writer], sinks: Sequence[Sink], keep_failed: bool) -> int:
    """Write the dump, or its parts one after the other; return the bytes."""
    nbytes = n_done = 0
    seconds = Seconds()
    n_pages = sum(writer.n_pages for writer in dump_writers)
    waiting = list(sinks)
    try:
        for writer, sink in zip(dump_writers, sinks, strict=True):
            nbytes += writer.begin(sink)
            waiting.remove(sink)
            report.progress(_COPY, n_done, n_pages)
            try:
                for done in writer.write(sink):
                    n_done += done.npages
                    nbytes += done.nbytes
                    seconds = seconds.plus(done.seconds)
                    report.progress(_COPY, n_done, n_pages)
                writer.end(sink)
                sink.close()
            except BaseException:
                if keep_failed:
                    _give_up(writer, sink)
                raise
    except BaseException as error:
        # What holds no pages is of no use.
        retries = isinstance(error, NoSpace) and not keep_failed
        for sink in sinks if retries else waiting:
            sink.discard()
        if isinstance(error, NoSpace) and keep_failed:
            raise NoSpace(f"{error}: the dump is cut short, and marked so: make room or raise the dump level") from None
        raise
    if any(seconds):
        for name, value in zip(_STEPS, seconds, strict=True):
            report.took(name, value)
    return nbytes


def _give_up(writer: Writer, sink: Sink) -> None:
    """Leave a file that says that it's incomplete; if that fails too, the first error is what the user needs."""
    with suppress(SinkError):
        writer.mark_incomplete(sink)
        if sink.can_rewrite:
            sink.close()


def _summary(dump: DumpPlan, dump_writers: Sequence[Writer], nbytes: int, report: Reporter) -> Summary:
    scan = dump.scan
    count = {page_class: int(scan.counts[page_class]) for page_class in PageClass}
    return Summary(
        max_mapnr=scan.max_mapnr - dump.first_pfn,
        n_ram=scan.n_ram,
        n_absent=arrays.count(dump.source.ram_runs) - arrays.count(dump.source.data_runs),
        n_zero=sum(writer.n_zero for writer in dump_writers),
        n_shared=sum(writer.n_shared for writer in dump_writers),
        n_cache=count[PageClass.CACHE],
        n_cache_private=count[PageClass.CACHE_PRIVATE],
        n_user=count[PageClass.USER],
        n_free=count[PageClass.FREE] + count[PageClass.UNACCEPTED],
        n_hwpoison=count[PageClass.HWPOISON],
        n_offline=count[PageClass.OFFLINE],
        n_elf_excluded=dump_writers[0].n_left_out,
        written_nbytes=nbytes,
        seconds_by_stage=report.seconds_by_stage,
    )
