# SPDX-License-Identifier: GPL-2.0-or-later
"""The command: from arguments to an exit code."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

from npdump import __version__
from npdump.cli.options import FILTER, MESSAGE_ERROR, Options, build_parser, parse
from npdump.cli.report import Reporter
from npdump.errors import NpdumpError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run npdump.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; default: those of the process.

    Returns
    -------
    int
        Exit code: 0 done, 1 failed, 2 the kernel facts given are of another kernel (makedumpfile(8), DIAGNOSTICS).
    """
    # Nothing here makes cycles of garbage; looking for them took a tenth of a short run.
    gc.disable()
    # As other commands do: ``npdump --help | head`` ends quietly.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        Reporter(MESSAGE_ERROR).error(str(error))
        return error.exit_code
    if options.show_help:
        build_parser().print_help()
        return 0
    if options.show_version:
        print(_version())
        return 0
    if options.check_params:
        return 0
    return _run(options)


def _run(options: Options) -> int:
    # NumPy's linear algebra isn't used: its threads would cost start-up time and memory. Must be set before the import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if not options.is_answered_on_stdout:
        # From here on a pipe without a reader is an error like others: that of a worker that died, or the output of -F.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    report = Reporter(options.message_level, messages_to_stderr=options.is_answered_on_stdout or options.flatten)
    try:
        if options.command == FILTER:
            _filter(options, report)
        else:
            from npdump.cli import commands

            return commands.get(options.command)(options, report) or 0
    except NpdumpError as error:
        report.error(str(error))
        report.message("\nnpdump Failed.")
        return error.exit_code
    except MemoryError:
        report.error("out of memory: try --num-threads 1, a smaller --cyclic-buffer, or more memory")
        report.message("\nnpdump Failed.")
        return 1
    except KeyboardInterrupt:
        report.error("interrupted: the output, if any, is marked as incomplete")
        return 128 + signal.SIGINT
    return 0


def _filter(options: Options, report: Reporter) -> None:
    from npdump.cli.inputs import open_dump
    from npdump.cli.outputs import make_dump
    from npdump.cli.summary import as_json, as_text

    with open_dump(options, report) as dump:
        summary = make_dump(options, dump)
    if options.json:
        report.answer(as_json(summary))
    else:
        report.report(as_text(summary))
    if not options.dry_run:
        report.message(f"\nThe dumpfile is saved to {', '.join(options.dumpfiles) or 'the standard output'}.")
    report.message("\nnpdump Completed.")


def _version() -> str:
    from npdump.codecs import all_codecs

    lines = [f"npdump: version {__version__}"]
    lines += [f"  {codec.name:<7} {', '.join(codec.engines())}" for codec in all_codecs()]
    return "\n".join(lines)
