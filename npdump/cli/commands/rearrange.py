# SPDX-License-Identifier: GPL-2.0-or-later
"""``-R``: a file of a flattened dump that comes on the standard input."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from npdump import sources, storage
from npdump.errors import CorruptDump, SinkError, SourceError, TruncatedDump
from npdump.layouts.flattened import HEADER_NBYTES, RECORD, SIGNATURE
from npdump.sinks.file import FileSink
from npdump.storage.spool import peek

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.cli.options import Options
    from npdump.cli.report import Reporter
    from npdump.sinks import Placement

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
    (path,) = options.dumpfiles
    if sys.stdin is None:
        raise SourceError(f"{_NAME}: is closed: -R reads a flattened dump: redirect a file or a pipe")
    if sys.stdin.isatty():
        raise SourceError(f"{_NAME}: is a terminal: -R reads a flattened dump: redirect a file or a pipe")
    head, stream = peek(sys.stdin.buffer, HEADER_NBYTES, _NAME, ())
    container = storage.detect(head)
    errors: tuple[type[Exception], ...] = container.errors if container else ()
    failures: tuple[type[Exception], ...] = (EOFError, OSError, *errors)
    if container:
        head, stream = peek(storage.unpacked(container, stream, options.identity), HEADER_NBYTES, _NAME, errors)
    if not head.startswith(SIGNATURE):
        raise SourceError(f"{_NAME}: isn't a flattened dump: it begins with {head[:8].hex(' ')}")
    sink = FileSink(path, options.force, sync=bool(options.sync))
    try:
        stream.read(HEADER_NBYTES)
        _rearrange(stream, sink)
    except (EOFError, TruncatedDump) as error:
        sink.close()
        raise TruncatedDump(
            f"{_NAME}: ends without the end mark: it was cut short; {sink.path} holds what came, and says that "
            "it's incomplete if it got its header; npdump reads the flattened file as well"
        ) from error
    except failures as error:
        sink.close()
        raise SourceError(f"{_NAME}: can't be read: {error}") from error
    except BaseException:
        with suppress(SinkError):
            sink.close()
        raise
    sink.close()
    report.message(f"\nThe dumpfile is saved to {path}.\n\nnpdump Completed.")


def _rearrange(stream: BinaryIO, sink: FileSink) -> None:
    head = _Head()
    while True:
        header = stream.read(RECORD.size)
        if len(header) < RECORD.size:
            raise TruncatedDump(f"{_NAME}: ends without the end mark")
        offset, nbytes = RECORD.unpack(header)
        if offset == nbytes == -1:
            break
        if offset < 0 or nbytes <= 0:
            raise SourceError(f"{_NAME}: a record is corrupt: offset {offset}, size {nbytes}")
        while nbytes:
            data = stream.read(min(nbytes, _CHUNK_NBYTES))
            if not data:
                raise TruncatedDump(f"{_NAME}: ends without the end mark")
            sink.write_all(head.take(offset, data))
            offset += len(data)
            nbytes -= len(data)
    sink.flush()
    sink.write(0, head.whole)
    try:
        sink.flush()
    except SinkError:
        with suppress(SinkError):
            sink.write_all((0, marked) for marked in head.marked())
        raise


class _Head:
    """The beginning of the file, which says that the rest isn't whole: it is held back until it can say so.

    Attributes
    ----------
    whole : bytes
        As it came: to be written when the rest is there.
    """

    def __init__(self) -> None:
        self.whole = b""

    def take(self, offset: int, data: bytes) -> list[Placement]:
        """Take bytes of the file; return what of the file can be written for that."""
        n_ours = min(max(sources.HEAD_NBYTES - offset, 0), len(data))
        placements: list[Placement] = [(offset + n_ours, data[n_ours:])] if n_ours < len(data) else []
        if n_ours:
            self.whole = self.whole.ljust(offset, b"\0")
            self.whole = self.whole[:offset] + data[:n_ours] + self.whole[offset + n_ours :]
            placements += [(0, head) for head in self.marked()]
        return placements

    def marked(self) -> Iterator[bytes]:
        """Yield the beginning of the file as that of an incomplete one, if it can be told what it is."""
        source_format = sources.detect(self.whole)
        if source_format is not None:
            # Nothing is what it gives of a header that has only begun to come.
            with suppress(CorruptDump):
                at, mark = source_format.incomplete_mark(self.whole)
                yield self.whole[:at] + mark + self.whole[at + len(mark) :]
