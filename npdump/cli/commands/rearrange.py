# SPDX-License-Identifier: GPL-2.0-or-later
"""``-R``: a file of a flattened dump that comes on the standard input."""

from __future__ import annotations

import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING, BinaryIO

from npdump import sources, storage
from npdump.errors import SinkError, SourceError, TruncatedDump
from npdump.layouts.flattened import HEADER_NBYTES, RECORD, SIGNATURE
from npdump.sinks.file import FileSink
from npdump.storage.file import FileStorage
from npdump.storage.spool import peek

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["run"]

_CHUNK_NBYTES = 1 << 20
_NAME = "standard input"


def run(options: Options, report: Reporter) -> None:
    """Write the file.

    Raises
    ------
    SourceError
        If the input isn't flattened or was cut short: what came is left in the file, marked as incomplete.
    """
    assert options.dumpfile is not None
    if sys.stdin is None or sys.stdin.isatty():
        raise SourceError(f"{_NAME}: is a terminal: -R reads a flattened dump: redirect a file or a pipe")
    head, stream = peek(sys.stdin.buffer, HEADER_NBYTES, _NAME, ())
    container = storage.detect(head)
    errors: tuple[type[Exception], ...] = container.errors if container else ()
    failures: tuple[type[Exception], ...] = (EOFError, OSError, *errors)
    if container:
        head, stream = peek(container.open(stream), HEADER_NBYTES, _NAME, errors)
    if not head.startswith(SIGNATURE):
        raise SourceError(f"{_NAME}: isn't a flattened dump: it begins with {head[:8].hex(' ')}")
    sink = FileSink(options.dumpfile, options.force)
    try:
        stream.read(HEADER_NBYTES)
        _rearrange(stream, sink)
    except BaseException as error:
        _mark(sink)
        if isinstance(error, EOFError | TruncatedDump):
            raise TruncatedDump(
                f"{_NAME}: ends without the end mark: it was cut short; {sink.path} holds what came, and says that "
                "it's incomplete if it got its header; npdump reads the flattened file as well"
            ) from None
        if isinstance(error, failures):
            raise SourceError(f"{_NAME}: can't be read: {error}") from None
        raise
    finally:
        sink.close()
    report.message(f"\nThe dumpfile is saved to {options.dumpfile}.\n\nnpdump Completed.")


def _rearrange(stream: BinaryIO, sink: FileSink) -> None:
    while True:
        header = stream.read(RECORD.size)
        if len(header) < RECORD.size:
            break
        offset, nbytes = RECORD.unpack(header)
        if offset == nbytes == -1:
            return
        if offset < 0 or nbytes <= 0:
            raise SourceError(f"{_NAME}: a record is corrupt: offset {offset}, size {nbytes}")
        while nbytes and (data := stream.read(min(nbytes, _CHUNK_NBYTES))):
            sink.write(offset, data)
            offset += len(data)
            nbytes -= len(data)
    raise TruncatedDump(f"{_NAME}: ends without the end mark")


def _mark(sink: FileSink) -> None:
    """Have the file say that it's incomplete, if it's so far that it can."""
    # What can't be read, for want of its header or of rights, doesn't look whole either.
    with suppress(SourceError, SinkError), closing(FileStorage(sink.path)) as storage:
        source_format = sources.detect(storage.read(0, min(storage.nbytes, sources.HEAD_NBYTES)))
        if source_format is not None:
            sink.write_all([source_format.incomplete_mark(storage)])
