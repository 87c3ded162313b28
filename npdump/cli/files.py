# SPDX-License-Identifier: GPL-2.0-or-later
"""Small files, such as a report or the log, that are there as a whole or not at all."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from npdump.sinks.file import FileSink

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from npdump.storage import Storage

__all__ = ["whole_file"]


@contextmanager
def whole_file(
    path: str, force: bool, inputs: Iterable[Storage] = (), *, keep_away: bool = False, sync: bool = False
) -> Iterator[FileSink]:
    """Make a file, which is removed again if anything goes wrong; the parameters are those of `FileSink`.

    Raises
    ------
    SinkError
    """
    sink = FileSink(path, force, inputs, keep_away=keep_away, sync=sync)
    try:
        yield sink
        if sync:
            sink.flush()
        sink.close()
    except BaseException:
        sink.discard()
        raise
