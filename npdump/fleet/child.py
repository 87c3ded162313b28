# SPDX-License-Identifier: GPL-2.0-or-later
"""A dump's work in a process of its own, which may be stopped, run out of memory or be killed without harm to others.

Each thread that hands out work keeps one such process and gives it dump after dump: what Python needs to start is spent
once. A process that ends on the way costs the dump that it had, which is begun again in a new one.

`concurrent.futures.ProcessPoolExecutor` was measured beside this: a worker that is killed there breaks the pool and
fails all dumps that wait in it, and a dump that takes too long can't be stopped alone. Dask's LocalCluster outlives a
killed worker, but takes a second to start, and has no limits for a single task. So both hand out work to threads, and
those to processes like this one.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["STOP", "STOP_SECONDS", "Call", "Failure", "Limits", "Outcome", "close_children", "dumps", "run_in_child"]

_N_ATTEMPTS = 3
STOP = b""
STOP_SECONDS = 5.0
_START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one dump may take.

    Attributes
    ----------
    seconds : float or None
    nbytes : int or None
        Of memory, by the kernel's own count of what a process may write to (setrlimit(2), RLIMIT_DATA).
    """

    seconds: float | None = None
    nbytes: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no result.

    Attributes
    ----------
    kind : str
        Name of the exception's class; ``"Timeout"``, ``"MemoryError"`` and ``"Killed"`` are the process's end.
    text : str
        One line.
    """

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one call.

    Attributes
    ----------
    value : object
        What the function returned.
    failure : Failure or None
    seconds : float
        By the clock, with those of attempts that were killed.
    memory_nbytes : int or None
        The most that was resident.
    """

    value: Any = None
    failure: Failure | None = None
    seconds: float = 0.0
    memory_nbytes: int | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A function, pickled once for all dumps, and its limits; calling it with an argument runs it in a process.

    Attributes
    ----------
    function : bytes
    limits : Limits
    """

    function: bytes
    limits: Limits = Limits()

    def __call__(self, argument: Any) -> Outcome:
        """Run the function; never raises for what happens in it."""
        return run_in_child(self, argument)


def run_in_child(call: Call, argument: Any) -> Outcome:
    """Run a function in this thread's process, which is started if there is none.

    Parameters
    ----------
    call : Call
    argument : object
        Is pickled.

    Returns
    -------
    Outcome
        A process that ends by a signal that nobody of us sent is tried again, three times in all.
    """
    start = time.monotonic()
    ended = ""
    for _ in range(_N_ATTEMPTS):
        child: _Child | None = getattr(_OF_THREAD, "child", None)
        if child is None or not child.is_alive:
            child = _OF_THREAD.child = _Child()
        try:
            outcome = child.call(call, argument)
        except (EOFError, OSError):
            ended = child.close()
            if _IS_CLOSED.is_set():
                break
        else:
            return outcome
    text = f"the process that worked on it ended {_N_ATTEMPTS} times ({ended}): is there too little memory?"
    return Outcome(failure=Failure("Killed", text), seconds=time.monotonic() - start)


_OF_THREAD = threading.local()
_ALL: set[_Child] = set()
_IS_CLOSED = threading.Event()


def close_children() -> None:
    """End the processes of all threads; outputs that they were writing are removed."""
    _IS_CLOSED.set()
    for child in list(_ALL):
        child.stop()
    _IS_CLOSED.clear()


class _Child:
    """A process that runs functions, one at a time."""

    def __init__(self) -> None:
        ours, theirs = Pipe()
        with theirs:
            # The terminal's Ctrl-C is for who hands out the work.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "npdump.fleet._serve", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=_environment(),
            )
        self._pipe: Connection = ours
        self._is_closed = False
        _ALL.add(self)
        if self._pipe.poll(_START_SECONDS):
            with suppress(EOFError, OSError):
                self._pipe.recv_bytes()

    @property
    def is_alive(self) -> bool:
        return not self._is_closed and self._process.poll() is None

    def call(self, call: Call, argument: Any) -> Outcome:
        """Run a function; raises EOFError or OSError if the process ends."""
        self._pipe.send_bytes(pickle.dumps((call.function, call.limits.nbytes, argument)))
        if not self._pipe.poll(call.limits.seconds):
            self._process.kill()
            self.close()
            seconds = call.limits.seconds or 0.0
            return Outcome(failure=Failure("Timeout", f"took longer than the limit of {seconds:g} s"), seconds=seconds)
        outcome: Outcome = pickle.loads(self._pipe.recv_bytes())
        return outcome

    def stop(self) -> None:
        """Have the process tidy up and end."""
        with suppress(OSError, ValueError):
            self._pipe.send_bytes(STOP)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self.close()

    def close(self) -> str:
        """End the process, and say how it ended."""
        self._is_closed = True
        _ALL.discard(self)
        if self._process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)
            self._process.kill()
        code = self._process.wait()
        self._pipe.close()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _environment() -> dict[str, str]:
    # The process finds the modules that this one finds.
    return os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path), "OPENBLAS_NUM_THREADS": "1"}


def dumps(function: Callable[[Any], Any]) -> bytes:
    """Pickle a function; those of a notebook or of `__main__` need cloudpickle, which comes with Dask.

    Raises
    ------
    MissingDependency
    """
    inner = function
    while hasattr(inner, "func"):  # of a partial one, and of those of `npdump.fleet.map`
        inner = inner.func
    is_nameless = "<" in getattr(inner, "__qualname__", "")
    if is_nameless or getattr(inner, "__module__", "") in ("__main__", "__mp_main__"):
        from npdump.extras import require

        by_value: bytes = require("cloudpickle", "cloudpickle", "functions of a notebook or script").dumps(function)
        return by_value
    return pickle.dumps(function)
