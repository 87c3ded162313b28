# SPDX-License-Identifier: GPL-2.0-or-later
"""The command: from arguments to an exit code."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

from npdump.cli import signals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

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
        Exit code: 0 done, 1 failed, 2 the kernel facts given are of another kernel (makedumpfile(8), DIAGNOSTICS),
        128 and the number of a signal that ended it.
    """
    signals.quit_at_once()
    # Nothing here makes cycles of garbage; looking for them took a tenth of a short run.
    gc.disable()
    # As other commands do: ``npdump --help | head`` ends quietly.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # NumPy's linear algebra isn't used: its threads would cost start-up time and memory. Must be set before the import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from npdump.cli.options import MESSAGE_ERROR
    from npdump.cli.parsing import parse
    from npdump.cli.report import Reporter
    from npdump.errors import UsageError

    try:
        options = parse(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        Reporter(MESSAGE_ERROR).error(str(error))
        return error.exit_code
    is_answered = options.is_answered_on_stdout
    if not is_answered and not (options.show_help or options.show_version):
        # From here on a pipe without a reader is an error like others: such as the output of -F.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    report = Reporter(options.message_level, messages_to_stderr=is_answered or options.flatten)
    return _run(options, report)


def _run(options: Options, report: Reporter) -> int:
    """Do what the options ask; what goes wrong is said in a line."""
    from npdump.errors import NpdumpError

    is_job = not (options.show_help or options.show_version or options.check_params)
    code, text = 1, ""
    try:
        # Loading most of npdump first: what a signal interrupts then is no import.
        run = _find(options)
        signals.raise_interrupted()
        return run(options, report) or 0
    except NpdumpError as error:
        code, text = error.exit_code, f"{error}{_did_you_mean(options)}"
    except ImportError as error:
        text = _advice(error)
    except MemoryError:
        text = "out of memory: try --num-threads 1, a smaller --cyclic-buffer, or more memory"
    except signals.Interrupted as error:
        report.error(str(error))
        return 128 + error.number
    report.error(text)
    if is_job:
        report.message("\nnpdump Failed.")
    return code


def _find(options: Options) -> Callable[[Options, Reporter], int | None]:
    """Return the function that does what the options ask; it may return an exit code."""
    from npdump.cli.commands import FILTER

    if options.show_help:
        return _show_help
    if options.show_version:
        return _show_version
    if options.check_params:
        return _check_params
    if options.command == FILTER:
        from npdump.cli import outputs

        return outputs.run
    from npdump.cli import commands

    return commands.get(options.command)


def _show_help(options: Options, report: Reporter) -> None:
    from npdump.cli.help import help_text

    report.answer(help_text(options.command))


def _show_version(options: Options, report: Reporter) -> None:
    from npdump import __version__, core
    from npdump.codecs import all_codecs

    lines = [f"npdump: version {__version__}", f"  core    {core.description()}"]
    lines += [f"  {codec.name:<7} {', '.join(codec.engines())}" for codec in all_codecs()]
    report.answer("\n".join(lines))


def _check_params(options: Options, report: Reporter) -> None:
    """Load all that the run would load: what is missing is said now and not after a crash; raises as the run would."""
    from importlib import import_module

    from npdump import codecs, core, plugins
    from npdump.cli import commands
    from npdump.errors import MissingDependency

    why = core.failure()
    if why is not None:
        raise MissingDependency(f"the compiled core is there and can't be used: {why}")
    if options.command == commands.FILTER:
        # NumPy and the codec first: of what is missing, they have the best advice.
        import_module("numpy")

        engine = options.zlib_engine if options.codec == "zlib" else None
        codecs.get(options.codec).encoder(4096, engine, options.codec_level)
        import_module("npdump.cli.outputs")
    else:
        commands.get(options.command)
    for package, attribute in _PLUG_INS:
        for _ in plugins.each(package, attribute):
            pass
    if options.lz4:
        from npdump.storage.lz4 import Frame

        Frame()


_PLUG_INS = (
    ("npdump.storage", "CONTAINER"),
    ("npdump.sources", "FORMAT"),
    ("npdump.arch", "ARCH"),
    ("npdump.kernel.memmap", "MODEL"),
    ("npdump.writers", "WRITER"),
)
"""What a run looks through, by the attribute that is asked for."""


def _did_you_mean(options: Options) -> str:
    """Return advice if a command may have been meant where there is no such file."""
    from npdump.cli.commands import FILTER, SUBCOMMANDS

    if options.command != FILTER or not options.vmcores or os.path.lexists(options.vmcores[0]):
        return ""
    from difflib import get_close_matches

    close = get_close_matches(options.vmcores[0], SUBCOMMANDS, n=1)
    return f"; did you mean npdump {close[0]}?" if close else ""


_PACKAGES = {"numpy": "numpy", "elftools": "pyelftools", "lzo": "python-lzo"}
"""How pip calls what npdump can't do without."""


def _advice(error: ImportError) -> str:
    """Say what is missing, and how to get it."""
    module = (error.name or "").partition(".")[0]
    package = _PACKAGES.get(module)
    # NumPy writes a page, with the reason at its end.
    reason = str(error).strip().splitlines()[-1]
    if package is None:
        return f"a library can't be loaded: {reason}"
    what = "isn't installed" if isinstance(error, ModuleNotFoundError) and error.name == module else f"fails: {reason}"
    return f"the Python library {package} {what}: apt-get or dnf install python3-{package}, or pip install {package}"
