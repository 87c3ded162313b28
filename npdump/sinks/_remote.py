# SPDX-License-Identifier: GPL-2.0-or-later
"""An object in a store, in the flattened format, sent part by part while the dump is made.

The records of a stream come in any order, so that the beginning of the file, which says whether it is whole, is sent
last; memory holds a few parts, and no disk any. A store shows an object when all its parts are there and were said to
be all: what fails, or is killed, leaves none. obstore sends a part again whose connection broke.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from npdump.errors import NoSpace, SinkError
from npdump.layouts.flattened import END_MARK, HEADER, RECORD
from npdump.sinks._stream import Stream
from npdump.storage._stores import exists, explanation, locate, obstore

if TYPE_CHECKING:
    from collections.abc import Iterator


__all__ = ["RemoteSink"]

_MIB = 1 << 20
_PART_NBYTES = 8 * _MIB
_MAX_PARTS = 9000
"""S3 takes 10,000 parts."""

_CONCURRENCY = 2
_RECORD_NBYTES = 4 * _MIB
_N_RECORDS = 4
"""Records that grow side by side: page data, their descriptors, and bitmaps."""


class RemoteSink(Stream):
    """See `npdump.sinks.Sink`.

    Parameters
    ----------
    url : str
    force : bool
        Replace what is there.
    max_nbytes : int
        As large as the output may get, about: it decides how large the parts are.
    limit_nbytes : int or None
        Send no more than this.

    Raises
    ------
    SinkError
        If there is an object of that name and ``force`` is false, or the store can not be written to.
    """

    can_rewrite = True
    is_all_or_nothing = True

    def __init__(self, url: str, force: bool, max_nbytes: int, limit_nbytes: int | None = None) -> None:
        place = locate(url)
        self.path = place.url
        if self.path.startswith(("http://", "https://")):
            raise SinkError(f"{self.path}: web servers are only read from: give a store, s3://, gs:// or az://")
        if not force and exists(url):
            raise SinkError(f"{self.path}: exists already: give -f to overwrite it, or another name")
        self._limit_nbytes = limit_nbytes
        self._n_sent = 0
        self._lock = threading.Lock()
        self._head = b""
        self._records: dict[int, tuple[int, bytearray]] = {}
        part_nbytes = max(_PART_NBYTES, -(-max_nbytes // _MAX_PARTS // _MIB) * _MIB)
        with self._explained():
            self._writer = obstore().open_writer(
                place.store, place.key, buffer_size=part_nbytes, max_concurrency=_CONCURRENCY
            )
        self._is_open = True
        self._send(HEADER)

    def write(self, offset: int, data: Any) -> None:
        """See `npdump.sinks.Sink.write`; what stands at offset 0 is sent last, and may be replaced until then."""
        body = memoryview(data).cast("B")
        with self._lock:
            if offset == 0:
                self._head = bytes(body)
            elif body.nbytes:
                self._add(offset, body)

    def _add(self, offset: int, body: memoryview) -> None:
        """Let the record grow that ends there, or begin one; records are known by where they end."""
        start, record = self._records.pop(offset, (offset, bytearray()))
        record += body
        if len(record) >= _RECORD_NBYTES:
            self._send_record(start, record)
            return
        self._records[offset + body.nbytes] = start, record
        if len(self._records) > _N_RECORDS:
            self._send_record(*self._records.pop(next(iter(self._records))))

    def _send_record(self, start: int, record: bytes | bytearray) -> None:
        self._send(RECORD.pack(start, len(record)))
        self._send(record)

    def _send(self, data: bytes | bytearray) -> None:
        if self._limit_nbytes is not None and self._n_sent + len(data) > self._limit_nbytes:
            raise NoSpace(f"{self.path}: the limit of {self._limit_nbytes} bytes (-L) is reached")
        with self._explained():
            self._writer.write(bytes(data))
        self._n_sent += len(data)

    def close(self) -> None:
        """Send the rest, the head last, and have the store show the object."""
        if not self._is_open:
            return
        try:
            with self._lock:
                for start, record in self._records.values():
                    self._send_record(start, record)
                self._send_record(0, self._head)
                self._send(END_MARK)
            self._is_open = False
            with self._explained():
                self._writer.close()
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Have the store forget the parts; what was there before stays."""
        if not self._is_open:
            return
        self._is_open = False
        self._records.clear()
        with suppress(Exception):  # nothing is shown of it in any case
            self._writer.__exit__(SinkError, SinkError(), None)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # obstore's errors have no class of their own that all of them are of
            raise SinkError(f"{self.path}: can't be written: {explanation(error)}") from error
