# SPDX-License-Identifier: GPL-2.0-or-later
"""What a worker process does: encode batches, and write them where it's told; and the words in which that is said."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from npdump.encode.job import Job, Seconds
from npdump.errors import NpdumpError

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

__all__ = ["ENCODE", "ENCODED", "FAILED", "PLACE", "WRITTEN", "timed", "work"]

ENCODE, PLACE = "encode", "place"
"""To a worker, with the number of a batch: its order; its file offset."""

ENCODED, WRITTEN, FAILED = "encoded", "written", "failed"
"""From a worker, with the number of a batch: its sizes and flags, and how many bytes; the seconds; an NpdumpError."""


def timed(step: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Do a step; return its result and the seconds that it took."""
    start = time.monotonic()
    return step(*arguments), time.monotonic() - start


def work(job: Job, connection: Connection, inherited: list[Connection]) -> None:
    """Be a worker until the connection closes."""
    # The parent decides what an interrupt ends; without our copies of its ends, its death ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()
    held: dict[int, tuple[Any, float]] = {}
    number = -1
    try:
        encode = job.make_encoder()
        while True:
            kind, number, payload = connection.recv()
            if kind == ENCODE:
                encoded, compress = timed(lambda order: encode(order).owned(), payload)
                held[number] = encoded.data, compress
                connection.send((ENCODED, number, (encoded._replace(data=None), len(encoded.data))))
            else:
                data, compress = held.pop(number)
                _, write = timed(job.write, data, payload)
                connection.send((WRITTEN, number, Seconds(0.0, compress, write)))
    except (EOFError, ConnectionError):
        pass
    except MemoryError:
        # The others may have enough: as if the kernel had killed us.
        os._exit(1)
    except NpdumpError as error:
        # Who failed after another did finds nobody listening.
        with suppress(ConnectionError):
            connection.send((FAILED, number, error))
