"""The composition: one vmcore in, one dump file out.

storage → source → facts → arch → memory → memmap → pages → bitmap → stream → codec → writer → sink
"""

from __future__ import annotations

from contextlib import closing, suppress
from functools import partial
from typing import NamedTuple

from npdump import codecs, writers
from npdump.arch import by_machine
from npdump.bitmap import in_file, in_memory
from npdump.errors import NoSpace, SinkError
from npdump.kernel.given import Given
from npdump.memmap import Kernel
from npdump.options import Options
from npdump.pages import DEFAULT_WINDOW_NPAGES, PageScan, open_scan
from npdump.pages.policy import PageClass
from npdump.probe import find_kernel, utsname
from npdump.report import Reporter
from npdump.selfcheck import Trust, trusted_scan
from npdump.sinks import Sink
from npdump.sinks.file import FileSink
from npdump.sinks.null import NullSink
from npdump.sources import Source, open_source
from npdump.storage import Storage
from npdump.stream import BATCH_NBYTES
from npdump.summary import Summary
from npdump.writers import Dump, How, Writer

__all__ = ["Result", "filter_dump"]

_SCAN = "Excluding unnecessary pages"
_COPY = "Copying data"


class Result(NamedTuple):
    """What came of a run: the numbers, and what the dump is of."""

    summary: Summary
    release: str | None
    machine: str


def filter_dump(options: Options, report: Reporter) -> Result:
    """Make a dump file as the command line says.

    Raises
    ------
    NpdumpError
        If the input is bad, or the output can't be written. An output that holds any pages by then is left, marked
        as incomplete; else it's removed.
    """
    assert options.vmcore is not None
    with closing(Storage(options.vmcore, use_mmap=not options.non_mmap)) as storage:
        source = open_source(storage)
        arch = by_machine(source.machine, source.bits)
        kernel = find_kernel(source, arch, options.dump_level, report.warning, _given(options))
        release = kernel.facts.release if kernel else None
        report.debug(f"{source.path}: {source.format_name}, {arch.name}, kernel {release or 'unknown'}")
        with report.stage(_SCAN):
            trust = Trust(options.dump_level, report.warning, options.strict)
            scan = trusted_scan(source, kernel, trust, partial(_open_scan, source, options, report))
            dump = Dump(
                source=source,
                scan=scan,
                level=trust.level,
                bits=arch.bits,
                byte_order=kernel.memory.space.byte_order if kernel else source.byte_order,
                aligns_u64=arch.aligns_u64,
                first_pfn=_first_pfn(source, kernel),
                utsname=utsname(kernel, arch),
                phys_base=arch.phys_base(source, kernel.facts) if kernel else 0,
                timestamp=(kernel.facts.get("CRASHTIME") if kernel else None) or 0,
            )
            how = How(
                codec=codecs.get(options.codec),
                engine=options.zlib_engine if options.codec == "zlib" else None,
                n_workers=options.num_threads,
                batch_npages=max(BATCH_NBYTES // source.page_size, 1 << options.block_order),
                warn=report.warning,
            )
            writer = writers.get(options.format)(dump, how)
        report.debug(trust.in_one_line())
        if scan.n_unreadable:
            report.warning(f"{scan.n_unreadable} struct pages couldn't be read: their pages are kept")
        with report.stage(_COPY):
            nbytes = _write(options, report, writer, storage)
        return Result(_summary(scan, writer, dump, nbytes, report), release, arch.name)


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


def _given(options: Options) -> Given | None:
    if options.vmlinux is None and options.vmcoreinfo is None:
        return None
    from npdump.vmlinux import given_facts  # readers of ELF and DWARF take as long to import as all of npdump

    return given_facts(options)


def _window_npages(options: Options) -> int:
    if options.cyclic_buffer_kib is None:
        return DEFAULT_WINDOW_NPAGES
    return options.cyclic_buffer_kib * 1024 * 8


def _write(options: Options, report: Reporter, writer: Writer, storage: Storage) -> int:
    """Write the dump; return its bytes."""
    sink: Sink
    if options.dry_run:
        sink = NullSink()
    else:
        assert options.dumpfile is not None
        sink = FileSink(options.dumpfile, options.force, [storage])
    try:
        nbytes = writer.begin(sink)
    except BaseException:
        sink.discard()
        raise
    n_done = 0
    report.progress(_COPY, 0, writer.n_pages)
    try:
        for done in writer.write(sink):
            n_done += done.npages
            nbytes += done.nbytes
            report.progress(_COPY, n_done, writer.n_pages)
        writer.end(sink)
        sink.close()
    except NoSpace as error:
        _give_up(writer, sink)
        raise NoSpace(f"{error}: the dump is cut short, and marked so: make room or raise the dump level") from None
    except BaseException:
        _give_up(writer, sink)
        raise
    return nbytes


def _give_up(writer: Writer, sink: Sink) -> None:
    """Leave a file that says that it's incomplete; if that fails too, the first error is what the user needs."""
    with suppress(SinkError):
        writer.cut_short(sink)
        sink.close()


def _summary(scan: PageScan, writer: Writer, dump: Dump, nbytes: int, report: Reporter) -> Summary:
    count = {page_class: int(scan.counts[page_class]) for page_class in PageClass}
    return Summary(
        max_mapnr=scan.max_mapnr - dump.first_pfn,
        n_ram=scan.n_ram,
        n_zero=writer.n_zero,
        n_cache=count[PageClass.CACHE],
        n_cache_private=count[PageClass.CACHE_PRIVATE],
        n_user=count[PageClass.USER],
        n_free=count[PageClass.FREE] + count[PageClass.UNACCEPTED],
        n_hwpoison=count[PageClass.HWPOISON],
        n_offline=count[PageClass.OFFLINE],
        n_elf_excluded=writer.n_left_out,
        written_nbytes=nbytes,
        seconds_by_stage=report.seconds_by_stage,
    )
