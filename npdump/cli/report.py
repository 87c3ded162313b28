# SPDX-License-Identifier: GPL-2.0-or-later
"""What npdump tells the user while it works: messages and progress, in makedumpfile's words.

Each kind of text has one bit in the message level (makedumpfile(8), ``--message-level``) and is dropped when the bit is
not set. Errors, warnings and progress go to the standard error; the rest goes to the standard output.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from npdump.cli.options import MESSAGE_COMMON, MESSAGE_DEBUG, MESSAGE_ERROR, MESSAGE_PROGRESS, MESSAGE_REPORT
from npdump.errors import SinkError

_SPINNER = "/|\\-"
_TERMINAL_SECONDS = 1.0  # between two rewritings of the progress line
_LOG_SECONDS = 5.0  # between two progress lines where a line cannot be rewritten
_MIN_RATE_SECONDS = 0.5  # before which a rate says nothing


class Reporter:
    """Print messages by the bits of a message level.

    Parameters
    ----------
    message_level : int
        Sum of the ``MESSAGE_*`` bits of :mod:`npdump.cli.options`.
    messages_to_stderr : bool
        Print nothing on the standard output, because it carries data.
    """

    def __init__(self, message_level: int, messages_to_stderr: bool = False) -> None:
        self.message_level = message_level
        self._messages_to_stderr = messages_to_stderr
        self._progress = _Progress()

    def keep_stdout(self) -> None:
        """Print nothing but answers on the standard output from here on."""
        self._messages_to_stderr = True

    def message(self, text: str) -> None:
        """Print a common message."""
        self._print(MESSAGE_COMMON, text)

    def debug(self, text: str) -> None:
        """Print a debugging message."""
        self._print(MESSAGE_DEBUG, text)

    def report(self, text: str) -> None:
        """Print a part of the report."""
        self._print(MESSAGE_REPORT, text)

    def answer(self, text: str) -> None:
        """Print what was asked for on the standard output, whatever the message level.

        Raises
        ------
        SinkError
            If it can't be printed.
        """
        self._progress.end_line()
        if sys.stdout is None:
            raise SinkError("standard output: is closed: the answer is lost")
        failure = _write("stdout", text if text.endswith("\n") else f"{text}\n")
        if failure is not None:
            raise SinkError(f"standard output: {_reason(failure)}: the answer is lost")

    def error(self, text: str) -> None:
        """Print an error, in one line whatever is in `text`."""
        if self.message_level & MESSAGE_ERROR:
            self._progress.end_line()
            line = text.replace("\n", "\\n")
            _write("stderr", f"npdump: {line}\n")

    def warn(self, text: str) -> None:
        """Print a warning, in one line whatever is in `text`."""
        self.error(f"warning: {text}")

    def progress(self, stage: str, done: int, total: int, nbytes: int = 0) -> None:
        """Show that `done` of `total` units of a stage are done; cheap enough to be called for each batch."""
        if self.message_level & MESSAGE_PROGRESS:
            self._progress.show(stage, done, total, nbytes)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the seconds that a stage takes."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.took(name, time.monotonic() - start)

    def took(self, name: str, seconds: float) -> None:
        """Print the seconds that a stage took."""
        self.debug(f"STEP [{name:<27}] : {seconds:.6f} seconds")

    def _print(self, bit: int, text: str) -> None:
        if not self.message_level & bit:
            return
        self._progress.end_line()
        if self._messages_to_stderr:
            _write("stderr", f"{text}\n")
            return
        failure = _write("stdout", f"{text}\n")
        if failure is not None:
            self.warn(f"standard output: {_reason(failure)}: what should be there is lost")


class _Progress:
    """The progress line: rewritten in place on a terminal, a line now and then in a log."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._start = 0.0
        self._shown = 0.0
        self._n_shown = 0
        self._line_is_open = False

    def show(self, stage: str, done: int, total: int, nbytes: int = 0) -> None:
        now = time.monotonic()
        is_new = stage != self._stage
        if is_new:
            self._stage, self._start = stage, now
        is_done = done >= total
        is_due = is_new or is_done
        if not is_due and now - self._shown < _TERMINAL_SECONDS:
            return
        rewrites = _rewrites(sys.stderr)
        if not is_due and now - self._shown < (_TERMINAL_SECONDS if rewrites else _LOG_SECONDS):
            return
        promille = 1000 if is_done else max(done, 0) * 1000 // total
        spinner = _SPINNER[self._n_shown % len(_SPINNER)]
        line = format_progress(stage, promille, now - self._start, spinner, nbytes)
        _write("stderr", line if rewrites else f"{line}\n", start="\r" if rewrites else "")
        self._shown = now
        self._n_shown += 1
        self._line_is_open = rewrites
        if is_done:
            self._stage = None

    def end_line(self) -> None:
        if self._line_is_open:
            self._line_is_open = False
            _write("stderr", "\n")


def format_progress(stage: str, promille: int, seconds: float, spinner: str, nbytes: int = 0) -> str:
    """Lay out one state of the progress line, without its end, in 79 columns at most.

    Parameters
    ----------
    nbytes : int
        Memory that is done with, 0 if that isn't known.

    References
    ----------
    makedumpfile 1.7.9: print_info.c, print_progress() and eta_to_human_short(); there, the name of the stage takes 50
    columns, and a terminal of 80 breaks the line.
    """
    eta = f"eta: {_human_seconds(int(seconds * 1000 / promille - seconds))}" if promille else ""
    amount = ""
    if nbytes:
        amount = human_nbytes(nbytes)
        if seconds >= _MIN_RATE_SECONDS:
            amount += f" {human_nbytes(int(nbytes / seconds))}/s"
    return f"{stage:<28}: [{promille // 10:3}.{promille % 10} %] {spinner} {eta:>11} {amount:>22}"


def human_nbytes(nbytes: int) -> str:
    """Return a size as people read it: three or four digits and a unit.

    Examples
    --------
    >>> human_nbytes(999), human_nbytes(1536), human_nbytes(5 << 40)
    ('999 B', '1.5 KiB', '5.0 TiB')
    """
    size, unit = float(nbytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if size < 1000:
            break
        size, unit = size / 1024, larger
    return f"{nbytes} B" if unit == "B" else f"{size:.{1 if size < 100 else 0}f} {unit}"


def _human_seconds(seconds: int) -> str:
    minutes = seconds // 60
    hours = minutes // 60
    days = hours // 24
    if seconds < 100:
        return f"{seconds}s"
    if minutes < 100:
        return f"{minutes}m{seconds % 60}s"
    if hours < 48:
        return f"{hours}h{minutes % 60}m"
    if days < 100:
        return f"{days}d{hours % 24}h"
    return ">100day"


def _rewrites(stream: TextIO | None) -> bool:
    """Whether a carriage return on `stream` goes back to the start of the line."""
    with suppress(OSError, ValueError):
        return stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return False


def _printable(text: str) -> str:
    """Escape what a terminal would obey: texts quote file names, and what a dump says."""
    if text.isascii() and text.translate(_LAYOUT).isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in "\n\t"
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


_LAYOUT = {ord("\n"): None, ord("\t"): None}


def _reason(failure: Exception) -> str:
    return failure.strerror or str(failure) if isinstance(failure, OSError) else str(failure)


def _write(name: str, text: str, start: str = "") -> Exception | None:
    """Write to a standard stream. One that is closed or full is no reason to stop: it is not used again."""
    stream: TextIO | None = getattr(sys, name)
    if stream is None:
        return None
    encoding = stream.encoding or "utf-8"
    try:
        # A file name may hold bytes that are no text in this locale.
        stream.write(start + _printable(text).encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError) as error:
        # The text stays in the buffer, and flushing it at exit would fail again and change the exit code.
        setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        return error
    return None
