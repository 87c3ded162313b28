# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs of npdump in which the n-th call of one function of the C library, or of one system call, fails once.

Calls on the scenario's files fail in ``interpose.c``, which is loaded before the C library into a process that forks
for each run (`tests.forked`): that takes some hundredths of a second, so that every n-th call can be tried. What starts
threads and processes is made to fail by strace(1), in a process of its own.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import subprocess
import tempfile
from collections import Counter
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests import harness
from tests.faults.judge import OLD, faults_of, state_of
from tests.forked import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.scenarios import Scenario

TIMEOUT = 120
SHORT, NOTHING = "short", "nothing"
"""Half of what is asked for is done, once; nothing is, from then on, and no error is told."""

_SPECIAL = {SHORT: -1, NOTHING: -2}
_READ = ("EIO", "EINTR", "EAGAIN", "ENOMEM", SHORT)
_WRITE = ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EINTR", SHORT, NOTHING)
_NAME = ("EACCES", "EIO", "ENOMEM")
#: What each function that is called on files may say, in the order of interpose.c. EINTR is answered by the C library
#: or by Python.
ERRNOS = {
    "open": ("EACCES", "EMFILE", "ENFILE", "ENOMEM", "EIO", "ENOSPC", "EROFS", "EINTR"),
    "stat": _NAME,
    "fstat": _NAME,
    "readlink": _NAME,
    "lseek": ("EIO", "EINVAL", "ENXIO"),
    "read": _READ,
    "pread": _READ,
    "preadv": (*_READ[:-1], "EOPNOTSUPP", "ENOSYS"),
    "mmap": ("ENOMEM", "EACCES", "ENODEV", "EAGAIN"),
    "write": _WRITE,
    "writev": _WRITE[:-2],
    "pwrite": _WRITE,
    "pwritev": (*_WRITE[:-2], "EOPNOTSUPP"),
    "fallocate": ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EINTR", "EOPNOTSUPP", "ENOSYS"),
    "ftruncate": ("EIO", "EINTR", "EPERM", "EFBIG"),
    "copy_file_range": ("ENOSPC", "EIO", "EXDEV", "EOPNOTSUPP", "EINVAL", "ENOSYS", SHORT, NOTHING),
    "sendfile": ("EIO", "EINVAL", "ENOSPC", SHORT),
    "fsync": ("EIO", "ENOSPC", "EDQUOT"),
    "flock": ("ENOLCK", "EINTR", "EAGAIN"),
    "fcntl": ("EMFILE", "EINVAL"),
    "dup": ("EMFILE",),
    "fchmod": ("EPERM", "EIO"),
    "close": ("EIO", "EINTR", "ENOSPC", "EDQUOT"),
    "rename": ("EACCES", "EIO", "ENOSPC", "EBUSY"),
    "unlink": ("EACCES", "EIO", "EBUSY"),
}
_NUMBERS = {name: number for number, name in enumerate(ERRNOS)}
#: Not on files: what starts threads and processes and makes them hear of each other; tried on the process as a whole.
OF_THE_PROCESS = {
    "pipe2": ("EMFILE", "ENFILE"),
    "memfd_create": ("EMFILE", "ENOSYS", "ENOMEM"),
    "socketpair": ("EMFILE", "ENFILE"),
    "clone": ("EAGAIN", "ENOMEM", "ENOSYS"),
    "clone3": ("EAGAIN", "ENOMEM"),
    "eventfd2": ("EMFILE",),
    "epoll_create1": ("EMFILE",),
}


class Fault(NamedTuple):
    """The n-th call, counted from 1, fails once with an errno, `SHORT` or `NOTHING`."""

    call: str
    n: int
    what: str

    def __str__(self) -> str:
        return f"{self.call} {self.n} {self.what}"


class Outcome(NamedTuple):
    """How a run ended: a hang is exit code 124; whether its fault came."""

    code: int
    stderr: str
    is_hit: bool = True


@cache
def _server() -> Server:
    """What forks for each run; the library stays as long as this process."""
    folder = tempfile.TemporaryDirectory(prefix="npdump-faults-")
    library = Path(folder.name) / "interpose.so"
    source = Path(__file__).with_name("interpose.c")
    subprocess.run(["gcc", "-std=gnu11", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    server = Server(harness.REPOSITORY, preload=library)
    _kept.append(folder)
    return server


_kept: list[tempfile.TemporaryDirectory] = []


class Stage:
    """A scenario in a folder of its own, with what comes of it without faults."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario = scenario
        self.folder = folder
        self._shared = os.memfd_create("faults")
        os.ftruncate(self._shared, mmap.PAGESIZE)
        self._counts = memoryview(mmap.mmap(self._shared, mmap.PAGESIZE)).cast("q")
        outcome = self.run()
        assert outcome.code == 0, outcome.stderr
        self.n_calls = {name: self._counts[number] for name, number in _NUMBERS.items()}
        self.wanted = {name: state_of(folder / name) for name in scenario.outputs}
        assert all(state.startswith("whole") for state in self.wanted.values()), self.wanted
        self.texts = {name: (folder / name).read_bytes() for name in scenario.texts}

    def clear(self) -> None:
        """Take away what a run left."""
        kept = {"v", "l", "before", "before1", "work"}
        for path in self.folder.iterdir():
            if path.name not in kept:
                path.unlink()
        if self.scenario.has_old:
            for name in self.scenario.outputs:
                (self.folder / name).write_bytes(OLD)

    def start(self, prefix: list[str]) -> subprocess.Popen[bytes]:
        """Start the command, after a prefix."""
        scenario = self.scenario
        self.clear()
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        with (
            open(self.folder / scenario.stdin if scenario.stdin else os.devnull, "rb") as stdin,
            open(self.folder / scenario.stdout if scenario.stdout else os.devnull, "wb") as stdout,
        ):
            return subprocess.Popen(
                [*prefix, *scenario.argv(self.folder)],
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                cwd=harness.REPOSITORY,
                env=environment,
            )

    def run(self, fault: Fault | None = None, kill: tuple[int, float] | None = None) -> Outcome:
        """Run the command to its end, with a fault in one of its calls on files, or a signal after some seconds."""
        scenario = self.scenario
        self.clear()
        what = (_SPECIAL.get(fault.what) or getattr(errno, fault.what)) if fault else 0
        request = {
            "arguments": [arg.format(self.folder) for arg in scenario.args],
            "directory": str(harness.REPOSITORY),
            "environment": dict(os.environ),
            "limits": {},
            "fault": (str(self.folder), _NUMBERS[fault.call] if fault else -1, fault.n if fault else 0, what),
        }
        stdin = self.folder / scenario.stdin if scenario.stdin else os.devnull
        with ExitStack() as stack:
            stdout = stack.enter_context(open(self.folder / scenario.stdout, "wb")) if scenario.stdout else None
            try:
                code, _, stderr = _server().run(request, stdout, TIMEOUT, stdin, self._shared, kill)
            except subprocess.TimeoutExpired:
                return Outcome(124, "hang")
        is_hit = _server().was_hit if kill else self._counts[len(_NUMBERS)] > 0
        return Outcome(code, stderr, is_hit)

    def faults(self, max_each: int) -> Iterator[Fault]:
        """All faults of at most so many calls of each kind, the first, the last and some between; one of each other."""
        for call, whats in ERRNOS.items():
            in_all_ways = set(chosen(self.n_calls[call], max_each))
            for n in range(1, self.n_calls[call] + 1):
                for what in whats if n in in_all_ways else whats[n % len(whats) :][:1]:
                    yield Fault(call, n, what)

    def try_fault(self, fault: Fault) -> list[str]:
        """Return what is wrong with a run in which a call on a file fails."""
        return self._judged(self.run(fault))

    def _judged(self, outcome: Outcome) -> list[str]:
        if outcome.code == 124:
            return ["hang"]
        if not outcome.is_hit:
            return ["the call that should have failed did not come"]
        return faults_of(
            self.scenario, self.folder, outcome.code, outcome.stderr, self.wanted, is_killed=False, texts=self.texts
        )

    def _run_traced(self, log: Path, fault: Fault | None) -> Outcome:
        command = ["strace", "-f", "-qq", "-o", str(log)]
        command += ["-e", f"trace={','.join('?' + name for name in OF_THE_PROCESS)}"]
        command += ["-e", f"inject={fault.call}:error={fault.what}:when={fault.n}"] if fault else []
        with self.start(command) as process:
            try:
                _, stderr = process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                return Outcome(124, "hang")
        return Outcome(process.returncode, stderr.decode(errors="replace"))

    def process_calls(self) -> Counter[str]:
        """How often each system call of `OF_THE_PROCESS` is made without faults."""
        with tempfile.NamedTemporaryFile() as log:
            outcome = self._run_traced(Path(log.name), None)
            assert outcome.code == 0, outcome.stderr
            lines = Path(log.name).read_text(errors="replace").splitlines()
        found = (re.match(r"(?:\d+ +)?(\w+)\(", line) for line in lines)
        return Counter(match[1] for match in found if match)

    def process_faults(self) -> Iterator[Fault]:
        """All faults of system calls that aren't made on files."""
        for call, n_calls in sorted(self.process_calls().items()):
            for n in range(1, n_calls + 1):
                for what in OF_THE_PROCESS.get(call, ()):
                    yield Fault(call, n, what)

    def try_process_fault(self, fault: Fault) -> list[str]:
        """Return what is wrong with a run in which such a system call fails."""
        with tempfile.NamedTemporaryFile() as log:
            return self._judged(self._run_traced(Path(log.name), fault))


def chosen(n: int, most: int) -> list[int]:
    """At most so many of the numbers 1 to n, evenly, with the first and the last one."""
    if n <= most:
        return list(range(1, n + 1))
    return sorted({1 + (n - 1) * i // (most - 1) for i in range(most)})
