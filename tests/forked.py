# SPDX-License-Identifier: GPL-2.0-or-later
"""npdump's command in a process of its own that begins as the fork of one that has loaded npdump.

Starting Python and loading NumPy takes ten times as long as most of what the tests ask for. A server does it once, and
forks for each command: with its own streams, directory, environment and limits, and an end of its own. What a command
does before it has loaded its modules is tested with real ones (`test_process`).
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import io
import json
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_LONGEST_REQUEST = 1 << 17
#: What the commands load when they are run, but not the libraries of one or two alone.
_MODULES = (
    "argparse",
    "json",
    "numpy",
    "elftools.elf.elffile",
    "elftools.dwarf.dwarfinfo",
    "npdump.cli.main",
    "npdump.cli.parsing",
    "npdump.cli.outputs",
    "npdump.cli.summary",
    "npdump.pipeline",
    "npdump.writers.kdump",
    "npdump.writers.elf",
)


def main() -> int:
    """Serve; each fork comes back from `_serve` with the arguments of a command, and runs it."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    for name in _MODULES:
        import_module(name)
    arguments = _serve(connection)
    if arguments is None:
        return 0
    from npdump.cli.main import main as command

    sys.argv = ["npdump", *arguments]
    code = command()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # taking the interpreter apart takes as long as most commands


def _serve(connection: socket.socket) -> list[str] | None:
    """Fork for each request. Returns in the forks, and None when there are no more requests."""
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, _LONGEST_REQUEST, 4)
        if not message:
            return None
        pid = os.fork()
        if not pid:
            connection.close()
            return _become(json.loads(message), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(request: dict, descriptors: list[int]) -> list[str]:
    """Make this process what the request asks for; return its arguments."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace", buffering=1)  # noqa: SIM115
    os.chdir(request["directory"])
    if fault := request.get("fault"):
        # tests/faults/interpose.c, which is loaded before all else.
        folder, number, at, what = fault
        assert ctypes.CDLL(None).faults_arm(folder.encode(), descriptors[3], number, ctypes.c_long(at), what) == 0
    os.environ.clear()
    os.environ.update(request["environment"])
    for name, nbytes in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (nbytes, nbytes))
    return request["arguments"]


class Server:
    """The other end of `main`, for the tests of one process; `preload` is a library that comes before all others."""

    def __init__(self, repository: Path, preload: Path | None = None) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self.was_hit = False
        with theirs:
            command = [sys.executable, "-m", "tests.forked", str(theirs.fileno())]
            environment = os.environ | {"PYTHONPATH": str(repository), "OPENBLAS_NUM_THREADS": "1"}
            environment |= {"LD_PRELOAD": str(preload)} if preload else {}
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], cwd=repository, env=environment, stdin=subprocess.DEVNULL
            )
        atexit.register(self._end)

    def _end(self) -> None:
        self._connection.close()
        self._process.wait()

    def run(
        self,
        request: dict[str, Any],
        stdout: IO | None,
        timeout: float,
        stdin: str | os.PathLike[str] = os.devnull,
        shared: int | None = None,
        kill: tuple[int, float] | None = None,
    ) -> tuple[int, str, str]:
        """Run a command; its exit code, and what it wrote to its streams: `stdout` takes the first, if given.

        `request` has its `arguments`, `directory`, `environment`, and `limits` by their names in `resource`; with
        `fault`, the arguments of ``faults_arm`` in ``tests/faults/interpose.c``, and `shared` for its numbers. `kill`
        is a signal and when it is sent, in seconds; `was_hit` says whether the command was there to get it.
        """
        deadline = time.monotonic() + timeout
        with self._lock, ExitStack() as stack:
            pipes = [os.pipe() for _ in range(2)]
            readers = [stack.enter_context(open(reader, "rb")) for reader, _ in pipes]
            with open(stdin, "rb") as file:
                ends = [file.fileno(), pipes[0][1] if stdout is None else stdout.fileno(), pipes[1][1]]
                ends += [] if shared is None else [shared]
                socket.send_fds(self._connection, [json.dumps(request).encode()], ends)
            for _, writer in pipes:
                os.close(writer)
            pid = int(self._connection.recv(64))
            timer = threading.Timer(kill[1], self._kill, (pid, kill[0])) if kill else None
            try:
                if timer:
                    self.was_hit = False
                    timer.start()
                out, err = _read_all(readers, deadline)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(request["arguments"], timeout) from None
            finally:
                # The server waits for the command: until then its number is no other process's.
                code = int(self._connection.recv(64))
                if timer:
                    timer.cancel()
                    timer.join()
        return code, out, err

    def _kill(self, pid: int, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            self.was_hit = True


def _read_all(readers: list[IO[bytes]], deadline: float) -> list[str]:
    """All that comes out of pipes, as `subprocess.run` with ``text=True`` returns it."""
    parts: dict[Any, bytearray] = {reader: bytearray() for reader in readers}
    with selectors.DefaultSelector() as selector:
        for reader in readers:
            selector.register(reader, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(deadline - time.monotonic())
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                if part := os.read(key.fd, 1 << 16):
                    parts[key.fileobj] += part
                else:
                    selector.unregister(key.fileobj)
    return [io.TextIOWrapper(io.BytesIO(part)).read() for part in parts.values()]


if __name__ == "__main__":
    sys.exit(main())
