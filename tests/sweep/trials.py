# SPDX-License-Identifier: GPL-2.0-or-later
"""Many changes of one dump, each tried within bounds of time and memory, in a process that may die of it."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.sweep import commands, scans
from tests.sweep.dumps import Altered
from tests.sweep.reads import noted
from tests.sweep.scans import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.sweep.changes import Change

MAX_SECONDS = 10
MAX_NBYTES = 400 << 20
_ADDRESS_SPACE_NBYTES = 6 << 30
_DEAF_SECONDS = 20 * MAX_SECONDS


class Trial(NamedTuple):
    """A change and what came of it."""

    dump: str
    change: Change
    outcome: Outcome


class _HangError(BaseException):
    pass


def _on_alarm(number: int, frame: Any) -> None:
    raise _HangError


def _peak_nbytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def bounded(judge: Callable[[], Outcome]) -> Outcome:
    """Judge within bounds: a hang, an error that isn't npdump's own and too much memory are outcomes as well."""
    signal.signal(signal.SIGPROF, _on_alarm)
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_nbytes()
    # Of the processor: the machine may be busy with something else.
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    try:
        outcome = judge()
    except _HangError:
        return Outcome("hang", detail=f"took more than {MAX_SECONDS} seconds")
    except (Exception, SystemExit):
        lines = traceback.format_exc().strip().splitlines()
        return Outcome("traceback", detail=" | ".join(line.strip() for line in (*lines[-3:-1], lines[-1])))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    used = _peak_nbytes() - before
    return Outcome("memory", detail=f"{used >> 20} MiB") if used > MAX_NBYTES else outcome


class Bench:
    """A dump on which changes are tried.

    What neither scans nor questions look at isn't tried: it can't matter.
    """

    def __init__(self, vmcore: Path, directory: Path, levels: tuple[int, ...]) -> None:
        self.altered = Altered(vmcore, directory)
        self.altered.change(None)
        self._levels = levels
        with noted() as self.read_by_scans:
            self.reference = scans.Reference(self.altered.path, levels)
        self.questions: list[tuple[list[str], set[str]]] = []
        for question in commands.questions(self.altered.path, self.altered.text):
            with noted() as keys:
                commands.ask(question)
            self.questions.append((question, keys))

    def scan(self, change: Change) -> Outcome | None:
        """Judge what a dump loses by a change; None if nothing looks at it."""
        if change.key not in self.read_by_scans:
            return None
        self.altered.change(change)
        return bounded(lambda: self.reference.judge(self.altered.path, self._levels))

    def ask(self, change: Change) -> Iterator[Outcome]:
        """Judge the answers to the questions that look at what was changed."""
        concerned = [question for question, keys in self.questions if change.key in keys]
        if concerned:
            self.altered.change(change)
        for question in concerned:
            yield bounded(lambda question=question: commands.ask(question))


def _serve(vmcore: Path, changes: list[Change], levels: tuple[int, ...], connection: Any) -> None:
    """Try changes one after the other, and send the outcomes of each."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_NBYTES, _ADDRESS_SPACE_NBYTES))
    with tempfile.TemporaryDirectory(prefix="npdump-sweep-") as directory:
        bench = Bench(vmcore, Path(directory), levels)
        connection.send(None)
        for change in changes:
            outcome = bench.scan(change)
            connection.send([*([] if outcome is None else [outcome]), *bench.ask(change)])


def try_all(name: str, vmcore: Path, changes: list[Change], levels: tuple[int, ...]) -> Iterator[Trial]:
    """Try changes in another process, and in a new one after it died."""
    context = multiprocessing.get_context("spawn")
    at = 0
    while at < len(changes):
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(vmcore, changes[at:], levels, theirs))
        process.start()
        theirs.close()
        is_ready = False
        while at < len(changes):
            try:
                if not ours.poll(_DEAF_SECONDS * (1 if is_ready else 10)):
                    raise TimeoutError
                outcomes = ours.recv()
            except (EOFError, TimeoutError) as error:
                process.kill()
                process.join()
                if not is_ready:
                    raise RuntimeError(f"{name}: the true VMCOREINFO can't be tried") from error
                kind = "hang" if isinstance(error, TimeoutError) else "crash"
                yield Trial(name, changes[at], Outcome(kind, detail=f"exit code {process.exitcode}"))
                at += 1
                break
            if not is_ready:
                is_ready = True
                continue
            yield from (Trial(name, changes[at], outcome) for outcome in outcomes)
            at += 1
        with suppress(OSError):
            ours.close()
        process.join()
