# SPDX-License-Identifier: GPL-2.0-or-later
"""Workers of a Dask cluster: on one machine, over ssh, of Slurm, of Kubernetes."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from npdump.extras import require
from npdump.fleet.run import FleetError, Workers

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["on_client", "on_scheduler"]

_CONNECT_SECONDS = 20
_LONELY_SECONDS = 60
_SCHEMES = ("tcp", "tls", "ucx", "ws", "wss")
_MIN_WAITING = 64  # a cluster may grow
_MAX_TOGETHER = 8


@contextmanager
def on_scheduler(address: str) -> Iterator[Workers]:
    """Give the workers of the cluster whose scheduler is at an address, such as ``tcp://host:8786``.

    Raises
    ------
    MissingDependency
    FleetError
        If nobody answers there, or it has no workers.
    """
    scheme = address.rpartition("://")[0]
    if scheme and scheme not in _SCHEMES:
        raise FleetError(f"{address}: no Dask scheduler has such an address: it begins with {', '.join(_SCHEMES)}")
    distributed = require("distributed", "'dask[distributed]'", "schedulers")
    try:
        client = distributed.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        why = str(error).partition("\n")[0]
        raise FleetError(f"{address}: no Dask scheduler answers: {why}: start one with dask scheduler") from error
    try:
        with on_client(client) as workers:
            yield workers
    finally:
        client.close()


@contextmanager
def on_client(client: Any) -> Iterator[Workers]:
    """Give the workers of a ``distributed.Client``.

    Raises
    ------
    FleetError
        If it has none.
    """
    try:
        client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
    except TimeoutError as error:
        raise FleetError(f"{client.scheduler.address}: has no workers: start some with dask worker") from error
    threads = client.nthreads()
    n = sum(threads.values())
    # Not pure: else a dump that is asked for twice would be answered by what is remembered of the first time.
    executor = client.get_executor(pure=False)
    words = f"{len(threads)} workers with {n} threads at {client.scheduler.address}; dashboard: {client.dashboard_link}"
    try:
        yield Workers(executor, max(4 * n, _MIN_WAITING), words, _Check(client), _MAX_TOGETHER)
    finally:
        executor.shutdown(wait=False)


class _Check:
    """Raises when the scheduler is gone, or has had no workers for a while."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._lonely_since: float | None = None

    def __call__(self) -> None:
        address = self._client.scheduler.address
        if self._client.status != "running":
            raise FleetError(f"{address}: the scheduler is lost: start it, and the same command again: it goes on")
        if self._client.nthreads():
            self._lonely_since = None
            return
        now = time.monotonic()
        self._lonely_since = self._lonely_since or now
        if now - self._lonely_since >= _LONELY_SECONDS:
            raise FleetError(f"{address}: has no workers any more: start some, and the same command again: it goes on")
