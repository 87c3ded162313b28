# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the dump that the command line names: into a file, several files, the standard output, or nowhere."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from npdump.cli.inputs import open_dump
from npdump.cli.summary import as_json, as_text
from npdump.errors import NpdumpError
from npdump.pages.scan import DEFAULT_WINDOW_NPAGES
from npdump.pipeline import ScanOptions
from npdump.sinks.file import open_files
from npdump.sinks.flattened import FlattenedSink, StandardOutput
from npdump.sinks.null import NullSink
from npdump.storage.file import is_in_proc
from npdump.storage.lz4 import Frame
from npdump.writers._split import Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npdump.cli.options import Options
    from npdump.cli.report import Reporter
    from npdump.dump import Dump
    from npdump.redact import Redaction
    from npdump.sinks import Sink
    from npdump.storage import Storage
    from npdump.summary import Summary

__all__ = ["make", "run"]


def run(options: Options, report: Reporter) -> int:
    """Make the output, or the parts of one, of a dump, and report what was left out; return the exit code."""
    deadline = None if options.deadline_seconds is None else time.monotonic() + options.deadline_seconds
    if options.split and (options.jobs is not None or options.scheduler is not None) and not options.dry_run:
        from npdump.cli.workers import make_split  # and SQLite, processes and such with it

        if options.save_dmesg is not None:
            with open_dump(options, report) as dump:
                _save_log(options, dump, report)
        summary = make_split(options, _writing(options, deadline), _waits_for_disk(options), report)
    else:
        with open_dump(options, report) as dump:
            if options.save_dmesg is not None and not options.dry_run:
                _save_log(options, dump, report)
            summary = make(options, dump, deadline=deadline)
    if options.json:
        report.answer(as_json(summary))
    elif options.dry_run and options.show_stats and not options.flatten:
        report.answer(as_text(summary))  # nothing else was asked for
    else:
        report.report(as_text(summary))
    if not options.dry_run:
        report.message(f"\nThe dumpfile is saved to {', '.join(options.dumpfiles) or 'the standard output'}.")
    report.message("\nnpdump Completed.")
    # Pages that couldn't be had were said one by one: the dump is whole but for them.
    # It's a failure only where they couldn't be read: damage of the input is as it was.
    return 1 if summary.n_unreadable else 0


def _save_log(options: Options, dump: Dump, report: Reporter) -> None:
    """Write the kernel log to a file of its own; what is wrong with it is no reason to make no dump."""
    from npdump.cli.files import whole_file
    from npdump.kernel import dmesg

    path = options.save_dmesg
    assert path is not None
    try:
        log = dump.log()
        for doubt in log.doubts:
            report.warn(doubt)
        with whole_file(path, options.force, dump.storages, keep_away=True, sync=True) as sink:
            sink.write(0, dmesg.as_text(log).encode("utf-8", "surrogateescape"))
    except NpdumpError as error:
        report.warn(f"{error}: there is no kernel log, but there will be a dump")
    else:
        report.message(f"The dmesg log is saved to {path}.")


def make(options: Options, dump: Dump, redaction: Redaction | None = None, *, deadline: float | None = None) -> Summary:
    """Make the output, or the parts of one, of an opened dump; ``deadline`` is one by `time.monotonic`."""
    frame = Frame() if options.lz4 else None  # if it can't be had, that's said before all else
    recipients = _recipients(options) if options.encrypt_to else None
    return dump.write_to(
        partial(_open_sinks, options, dump.storages, frame, recipients),
        split=Split(len(options.dumpfiles), options.splitblock_kib) if options.split else None,
        redaction=redaction,
        **_writing(options, deadline),
    )


def _writing(options: Options, deadline: float | None) -> dict[str, Any]:
    """Return the arguments of `Dump.write_to` that say how, and not where to."""
    return {
        "level": (options.dump_level, *options.retry_levels),
        "codec": options.codec,
        "format": options.format,
        "engine": options.zlib_engine if options.codec == "zlib" else None,
        "codec_level": options.codec_level,
        "verify": options.verify,
        "max_lost": options.max_lost,
        "n_threads": options.num_threads,
        "block_order": options.block_order,
        "share": options.share,
        "vital_first": _may_be_cut(options) if options.vital_first is None else options.vital_first,
        "deadline": deadline,
        "reassemble": options.reassemble,
        "scanning": ScanOptions(
            options.strict, _window_npages(options), options.work_dir, drops_memmap=options.drop_memmap
        ),
        "drop_guests": options.drop_guests,
        "config": options.config,
        "extensions": options.extensions,
    }


def _open_sinks(
    options: Options, inputs: Sequence[Storage], frame: Frame | None, recipients: Sequence[Any] | None
) -> Sequence[Sink]:
    """Make all outputs or, with an error, none."""
    if options.dry_run:
        return [NullSink() for _ in options.dumpfiles or [None]]
    if options.flatten and recipients is None:
        return [FlattenedSink(options.limit_nbytes, frame)]
    outputs: Sequence[Any] = (
        [StandardOutput(options.limit_nbytes)]
        if options.flatten
        else open_files(options.dumpfiles, options.force, inputs, options.limit_nbytes, _waits_for_disk(options))
    )
    if recipients is None:
        return outputs
    from npdump.sinks.encrypted import encrypted  # seldom wanted

    return encrypted(outputs, recipients, frame)


def _recipients(options: Options) -> Sequence[Any]:
    from npdump.storage.age import read_recipients  # seldom wanted

    return read_recipients(options.encrypt_to)


def _may_be_cut(options: Options) -> bool:
    """Return whether time or room may run out, so that what a debugger needs most is to be written first."""
    is_limited = options.deadline_seconds is not None or options.limit_nbytes is not None
    return is_limited or any(is_in_proc(path) for path in options.vmcores)


def _waits_for_disk(options: Options) -> bool:
    """Return whether to wait for the disk; by default in the capture kernel, which restarts afterwards."""
    if options.sync is not None:
        return options.sync
    return any(is_in_proc(path) for path in options.vmcores)


def _window_npages(options: Options) -> int:
    if options.cyclic_buffer_kib is None:
        return DEFAULT_WINDOW_NPAGES
    return options.cyclic_buffer_kib * 1024 * 8
