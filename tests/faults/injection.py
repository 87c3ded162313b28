# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs of npdump in which the n-th call of one system call fails once."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests import harness
from tests.faults.judge import OLD, faults_of, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.scenarios import Scenario

TIMEOUT = 120
_READ = ("EIO", "EINTR", "EAGAIN", "ENOMEM")
_WRITE = ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EINTR")
_NAME = ("EACCES", "EIO", "ENOMEM")
#: What each system call that is made on files may say. EINTR is answered by the C library or by Python.
ERRNOS = {
    "openat": ("EACCES", "EMFILE", "ENFILE", "ENOMEM", "EIO", "ENOSPC", "EROFS", "EINTR"),
    "newfstatat": _NAME,
    "fstat": _NAME,
    "statx": _NAME,
    "readlink": _NAME,
    "lseek": ("EIO", "EINVAL", "ENXIO"),
    "read": _READ,
    "pread64": _READ,
    "preadv": _READ,
    "preadv2": (*_READ, "EOPNOTSUPP", "ENOSYS"),
    "readv": _READ,
    "mmap": ("ENOMEM", "EACCES", "ENODEV", "EAGAIN"),
    "write": _WRITE,
    "writev": _WRITE,
    "pwrite64": _WRITE,
    "pwritev": _WRITE,
    "pwritev2": (*_WRITE, "EOPNOTSUPP"),
    "fallocate": ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EINTR", "EOPNOTSUPP", "ENOSYS"),
    "ftruncate": ("EIO", "EINTR", "EPERM", "EFBIG"),
    "copy_file_range": ("ENOSPC", "EIO", "EXDEV", "EOPNOTSUPP", "EINVAL", "ENOSYS"),
    "sendfile": ("EIO", "EINVAL", "ENOSPC"),
    "fsync": ("EIO", "ENOSPC", "EDQUOT"),
    "fdatasync": ("EIO", "ENOSPC", "EDQUOT"),
    "flock": ("ENOLCK", "EINTR", "EAGAIN"),
    "fcntl": ("EMFILE", "EINVAL"),
    "dup": ("EMFILE",),
    "ioctl": ("ENOTTY", "EIO"),
    "fchmod": ("EPERM", "EIO"),
    "close": ("EIO", "EINTR", "ENOSPC", "EDQUOT"),
    "rename": ("EACCES", "EIO", "ENOSPC", "EBUSY"),
    "renameat2": ("EACCES", "EIO", "ENOSPC", "EBUSY"),
    "unlink": ("EACCES", "EIO", "EBUSY"),
    "unlinkat": ("EACCES", "EIO", "EBUSY"),
}
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
    """The n-th call of a system call, counted from 1, fails once; with `value` it returns that instead."""

    call: str
    n: int
    errno: str | None
    value: int | None = None
    of_the_process: bool = False

    @property
    def rule(self) -> str:
        """The injection as strace takes it."""
        what = f"error={self.errno}" if self.errno else f"retval={self.value}"
        return f"inject={self.call}:{what}:when={self.n}{'' if self.errno else '+'}"

    def __str__(self) -> str:
        return f"{self.call} {self.n}{'' if self.errno else '+'} {self.errno or self.value}"


class Stage:
    """A scenario in a folder of its own, with what comes of it without faults."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario = scenario
        self.folder = folder
        code, stderr = self.run([])
        assert code == 0, stderr
        self.wanted = {name: state_of(folder / name) for name in scenario.outputs}
        assert all(state.startswith("whole") for state in self.wanted.values()), self.wanted

    def clear(self) -> None:
        """Take away what a run left."""
        kept = {"v", "before", "work"}
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

    def run(self, prefix: list[str]) -> tuple[int, str]:
        """Run the command to its end; a hang is exit code 124."""
        with self.start(prefix) as process:
            try:
                _, stderr = process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                _, stderr = process.communicate()
                return 124, f"hang\n{stderr.decode(errors='replace')}"
        return process.returncode, stderr.decode(errors="replace")

    def strace(self, log: Path, fault: Fault | None, of_the_process: bool = False) -> list[str]:
        """The prefix that traces the calls on the scenario's files, or those of the process, with a fault."""
        command = ["strace", "-f", "-qq", "-o", str(log)]
        if of_the_process:
            command += ["-e", f"trace={','.join('?' + name for name in OF_THE_PROCESS)}"]
        else:
            command += ["-e", f"trace={','.join('?' + name for name in ERRNOS)}"]
            command += [word for path in self.scenario.watched(self.folder) for word in ("-P", str(path))]
        return [*command, *(["-e", fault.rule] if fault else [])]

    def calls(self, of_the_process: bool = False) -> Counter[str]:
        """How often each system call is made without faults."""
        with tempfile.NamedTemporaryFile() as log:
            code, stderr = self.run(self.strace(Path(log.name), None, of_the_process))
            assert code == 0, stderr
            lines = Path(log.name).read_text(errors="replace").splitlines()
        found = (re.match(r"(?:\d+ +)?(\w+)\(", line) for line in lines)
        return Counter(match[1] for match in found if match)

    def faults(self, max_each: int) -> Iterator[Fault]:
        """All faults, of at most so many calls of each kind: the first, the last and some between."""
        for of_the_process, errnos in ((False, ERRNOS), (True, OF_THE_PROCESS)):
            for call, n_calls in sorted(self.calls(of_the_process).items()):
                if call not in errnos:
                    continue
                for n in chosen(n_calls, max_each):
                    for errno in errnos[call]:
                        yield Fault(call, n, errno, of_the_process=of_the_process)
                if "write" in call:
                    yield Fault(call, n_calls // 2 + 1, None, 0)

    def try_fault(self, fault: Fault) -> list[str]:
        """Return what is wrong with a run in which a system call fails."""
        with tempfile.NamedTemporaryFile() as log:
            code, stderr = self.run(self.strace(Path(log.name), fault, fault.of_the_process))
        if code == 124:
            return [stderr[:200]]
        return faults_of(self.scenario, self.folder, code, stderr, self.wanted, is_killed=False)


def chosen(n: int, most: int) -> list[int]:
    """At most so many of the numbers 1 to n, evenly, with the first and the last one."""
    if n <= most:
        return list(range(1, n + 1))
    return sorted({1 + (n - 1) * i // (most - 1) for i in range(most)})
