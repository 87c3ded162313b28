# SPDX-License-Identifier: GPL-2.0-or-later
"""The other end of `npdump.fleet.child`: ``python -m npdump.fleet._serve FD`` runs what comes through a socket."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue

from npdump.errors import NpdumpError
from npdump.fleet.child import STOP, STOP_SECONDS, Failure, Outcome

_MIB = 1 << 20


def main(fd: int) -> None:
    """Be the process: run what comes through a socket, until it is closed."""
    pipe = Connection(fd)
    requests: SimpleQueue[bytes] = SimpleQueue()
    # Told to stop, or with nobody left who would take an answer.
    with suppress(KeyboardInterrupt, ConnectionError):
        threading.Thread(target=_receive, args=(pipe, requests), daemon=True).start()
        import npdump.dump  # noqa: F401  (before the clock runs)

        pipe.send_bytes(b"ready")
        while True:
            pipe.send_bytes(_answer(requests.get()))


def _receive(pipe: Connection, requests: SimpleQueue[bytes]) -> None:
    try:
        while (request := pipe.recv_bytes()) != STOP:
            requests.put(request)
    except (EOFError, OSError):
        os._exit(1)  # nobody waits for a result, and another process may have the dump already
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    time.sleep(STOP_SECONDS)
    os._exit(1)


def _answer(request: bytes) -> bytes:
    """Run what a request names, and return the pickled `Outcome`."""
    start = time.monotonic()
    _forget_peak()
    value, failure = None, None
    try:
        function, limit_nbytes, argument = pickle.loads(request)
        _limit(limit_nbytes)
        value = pickle.loads(function)(argument)
    except NpdumpError as error:
        failure = Failure(type(error).__name__, str(error))
    except MemoryError:
        said = "memory ran out" if limit_nbytes is None else f"needs more memory than {limit_nbytes // _MIB} MiB"
        failure = Failure("MemoryError", said)
    except Exception as error:
        # A dump that npdump doesn't understand must not stop the others.
        failure = Failure(type(error).__name__, f"{type(error).__name__}: {error}")
    finally:
        _limit(None)
    seconds, nbytes = time.monotonic() - start, _peak_nbytes()
    try:
        return pickle.dumps(Outcome(value, failure, seconds, nbytes))
    except Exception as error:
        text = f"its result, a {type(value).__name__}, can't be sent: {error}"
        return pickle.dumps(Outcome(failure=Failure(type(error).__name__, text), seconds=seconds, memory_nbytes=nbytes))


def _limit(nbytes: int | None) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = resource.RLIM_INFINITY if nbytes is None else nbytes
    soft = wanted if hard == resource.RLIM_INFINITY or 0 <= wanted <= hard else hard
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _forget_peak() -> None:
    with suppress(OSError), open("/proc/self/clear_refs", "wb") as file:
        file.write(b"5")  # proc_pid_clear_refs(5): reset VmHWM


def _peak_nbytes() -> int | None:
    with suppress(OSError, StopIteration), open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1]) << 10
    return None


if __name__ == "__main__":
    main(int(sys.argv[1]))
