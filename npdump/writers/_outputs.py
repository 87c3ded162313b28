# SPDX-License-Identifier: GPL-2.0-or-later
"""Writing a dump into its outputs, which are owned until they are whole."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from npdump.encode.job import Seconds
from npdump.errors import NoSpace, OutOfTime, SinkError, SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from npdump.observer import Observer
    from npdump.sinks import Sink
    from npdump.writers import WriteOptions, Writer

__all__ = ["COPY_STAGE", "write_parts"]

COPY_STAGE = "Copying data"
_STEPS = ("Reading and comparing", "Compressing", "Writing")
"""Of the copying; those of several threads add up."""

_MAX_TOLD = 10
"""Lost pages that are told one by one."""


class _Outputs:
    """The outputs of a dump, owned until they are whole.

    After an error, the one that was being written is marked as incomplete, and those that hold no pages are removed:
    all of them, if there was no room and another dump level will be tried, or if an interrupt is to leave nothing.
    """

    def __init__(self, sinks: Sequence[Sink], can_retry: bool, keep_interrupted: bool) -> None:
        self._sinks = sinks
        self._can_retry = can_retry
        self._keep_interrupted = keep_interrupted
        self._n_begun = 0
        self._unfinished: Writer | None = None

    def __enter__(self) -> Self:
        return self

    def begun(self, writer: Writer) -> None:
        """Note that the next output has its headers, and by whom it will be finished."""
        self._n_begun += 1
        self._unfinished = writer

    def ended(self) -> None:
        """Note that the output is whole."""
        self._unfinished = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            for sink in self._sinks:
                sink.close()
            return
        is_unwanted = isinstance(error, KeyboardInterrupt) and not self._keep_interrupted
        n_kept = 0 if is_unwanted or (self._can_retry and isinstance(error, NoSpace)) else self._n_begun
        for sink in self._sinks[n_kept:]:
            sink.discard()
        if n_kept and not isinstance(error, Exception):
            error.add_note(self._what_is_left())
        # If this fails too, the first error is what the user needs.
        with suppress(SinkError):
            if n_kept and self._unfinished is not None:
                self._unfinished.mark_incomplete(self._sinks[n_kept - 1])
        if n_kept and self._unfinished is not None and self._sinks[n_kept - 1].is_all_or_nothing:
            n_kept -= 1
            self._sinks[n_kept].discard()
        for sink in self._sinks[:n_kept]:
            # What can't be rewritten is known to be incomplete by its missing end.
            if sink.can_rewrite:
                with suppress(SinkError):
                    sink.close()

    def _what_is_left(self) -> str:
        if self._sinks[0].is_all_or_nothing:
            return "no object was made"
        return "the output is incomplete, and marked so" if self._sinks[0].can_rewrite else "the stream has no end mark"


def write_parts(
    parts: Sequence[Writer],
    sinks: Sequence[Sink],
    observer: Observer,
    can_retry: bool,
    page_size: int,
    options: WriteOptions,
) -> int:
    """Write the dump, or its parts one after the other; return the bytes.

    Raises
    ------
    SourceError
        If more than ``options.max_lost`` pages can't be had.
    OutOfTime
        If ``options.deadline`` is over.
    """
    nbytes = n_done = n_lost = 0
    max_lost = options.max_lost
    seconds = Seconds()
    n_pages = sum(writer.n_pages for writer in parts)
    with _Outputs(sinks, can_retry, options.keep_interrupted) as outputs:
        for writer, sink in zip(parts, sinks, strict=True):
            nbytes += writer.begin(sink)
            outputs.begun(writer)
            observer.progress(COPY_STAGE, n_done, n_pages)
            for done in writer.write(sink):
                n_done += done.npages
                nbytes += done.nbytes
                seconds = seconds.plus(done.seconds)
                for loss in done.losses[: max(_MAX_TOLD - n_lost, 0)]:
                    observer.warn(f"{loss.error}: it is left out")
                n_lost += len(done.losses)
                if max_lost is not None and n_lost > max_lost:
                    raise SourceError(f"{n_lost} pages at least can't be had, more than --max-lost {max_lost} allows")
                observer.progress(COPY_STAGE, n_done, n_pages, n_done * page_size)
                # At least one batch is written, however late it is.
                if options.deadline is not None and n_done < n_pages and time.monotonic() > options.deadline:
                    raise OutOfTime(n_done, n_pages)
            writer.end(sink)
            if writer.n_lost and not sink.can_rewrite:
                raise SinkError(
                    f"{writer.n_lost} pages could not be had: the stream has all others, and is left without its end: "
                    "what is made of it says that it is incomplete"
                )
            outputs.ended()
    _tell(n_lost, seconds, observer)
    return nbytes


def _tell(n_lost: int, seconds: Seconds, observer: Observer) -> None:
    """Say what was lost in all, and what took how long."""
    if n_lost:
        observer.warn(f"{n_lost} pages could not be had, and are left out: the dump says that it is incomplete")
    if any(seconds):
        for name, value in zip(_STEPS, seconds, strict=True):
            observer.took(name, value)
