# SPDX-License-Identifier: GPL-2.0-or-later
"""Something tried in this process within bounds of time and memory: a hang, a traceback and greed are results too."""

from __future__ import annotations

import signal
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_SECONDS = 10


class Broken(NamedTuple):
    """How something broke its bounds: `kind` is hang, traceback or memory."""

    kind: str
    detail: str


class _HangError(BaseException):
    pass


def _on_alarm(number: int, frame: Any) -> None:
    raise _HangError


def peak_nbytes() -> int:
    """The most memory that this process has had since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def forget_peak() -> int:
    """Take what the process has now for the peak; return it."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_nbytes()


def bounded(do: Callable[[], Any], max_nbytes: int, max_seconds: float = MAX_SECONDS) -> Any:
    """Return what `do` returns, or how it broke its bounds.

    The seconds are those of the processor, since the machine may be busy with something else.
    """
    signal.signal(signal.SIGPROF, _on_alarm)
    before = forget_peak()
    signal.setitimer(signal.ITIMER_PROF, max_seconds)
    try:
        result = do()
    except _HangError:
        where = traceback.format_exc().strip().splitlines()[-3:-1]
        return Broken("hang", f"took more than {max_seconds:g} seconds | {' | '.join(line.strip() for line in where)}")
    except (Exception, SystemExit):
        lines = traceback.format_exc().strip().splitlines()
        return Broken("traceback", " | ".join(line.strip() for line in lines[-4:]))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    used = peak_nbytes() - before
    return Broken("memory", f"{used >> 20} MiB") if used > max_nbytes else result
