# SPDX-License-Identifier: GPL-2.0-or-later
"""A limit to how long a rule may take, so that one that never ends costs the rule and not the dump."""

from __future__ import annotations

import ctypes
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["DEFAULT_SECONDS", "TimeLimit", "TookTooLong"]

DEFAULT_SECONDS = 300
_AGAIN_SECONDS = 1.0


class TookTooLong(BaseException):
    """A rule had its time; no Exception, so that ``except Exception`` in a loop does not keep it."""


class TimeLimit:
    """A context in which Python code of this thread is interrupted when its time is over.

    It is told between two steps of the interpreter, and again each second while it goes on. A single call into compiled
    code ends first.

    Parameters
    ----------
    seconds : float

    Attributes
    ----------
    left_seconds : float
        What is left when the context is over.
    """

    def __init__(self, seconds: float) -> None:
        self.left_seconds = seconds
        self._lock, self._done = threading.Lock(), threading.Event()

    def __enter__(self) -> Self:
        self._thread, self._started = threading.get_ident(), time.monotonic()
        threading.Thread(target=self._watch, name="time limit", daemon=True).start()
        return self

    def _watch(self) -> None:
        seconds = self.left_seconds
        while not self._done.wait(max(seconds, 0.0)):
            with self._lock:
                if not self._done.is_set():
                    _raise_in(self._thread, TookTooLong)
            seconds = _AGAIN_SECONDS

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._done.set()
            _raise_in(self._thread, None)  # one that was told and has not arrived
        self.left_seconds -= time.monotonic() - self._started


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error) if error else None)
