# SPDX-License-Identifier: GPL-2.0-or-later
"""Many changes of one dump, each tried within bounds of time and memory, in a process that may die of it."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tests.bounded import Broken, bounded
from tests.sweep import commands, scans
from tests.sweep.dumps import Altered
from tests.sweep.once import Once
from tests.sweep.reads import noted
from tests.sweep.scans import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.sweep.changes import Change

MAX_NBYTES = 400 << 20
_ADDRESS_SPACE_NBYTES = 6 << 30
_DEAF_SECONDS = 200
LEVELS_A_TURN = QUESTIONS_A_TURN = 2

_T = TypeVar("_T")


class Trial(NamedTuple):
    """A change and what came of it."""

    dump: str
    change: Change
    outcome: Outcome


def _judged(judge: Callable[[], Outcome]) -> Outcome:
    outcome = bounded(judge, MAX_NBYTES)
    return Outcome(outcome.kind, detail=outcome.detail) if isinstance(outcome, Broken) else outcome


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
        self._once = Once()

    def change(self, change: Change) -> None:
        """Make one change to the true texts."""
        self.altered.change(change)
        self._once.forget()
        gc.collect()  # which the command turns off

    def scan(self, change: Change, turn: int | None = None) -> Outcome | None:
        """Judge what a dump loses by a change; None if nothing looks at it.

        With a turn, it is tried at the first level and at `LEVELS_A_TURN` of the others.
        """
        if change.key not in self.read_by_scans:
            return None
        first, *others = self._levels
        levels = (first, *_in_turn(others, turn, LEVELS_A_TURN))
        self.change(change)
        with self._once.shared():
            return _judged(lambda: self.reference.judge(self.altered.path, levels))

    def ask(self, change: Change, turn: int | None = None) -> list[Outcome]:
        """Judge the answers to the questions that look at what was changed; with a turn, to some of them."""
        concerned = [question for question, keys in self.questions if change.key in keys]
        concerned = _in_turn(concerned, turn, QUESTIONS_A_TURN)
        if concerned:
            self.change(change)
        with self._once.shared():
            return [_judged(lambda question=question: commands.ask(question)) for question in concerned]


def _in_turn(items: list[_T], turn: int | None, n: int) -> list[_T]:
    """So many of some items, from another one on at each turn; all of them without a turn."""
    if turn is None or n >= len(items):
        return items
    return [items[(turn * n + i) % len(items)] for i in range(n)]


def _serve(vmcore: Path, changes: list[Change], levels: tuple[int, ...], turn: int | None, connection: Any) -> None:
    """Try changes one after the other, and send the outcomes of each."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_NBYTES, _ADDRESS_SPACE_NBYTES))
    with tempfile.TemporaryDirectory(prefix="npdump-sweep-") as directory:
        bench = Bench(vmcore, Path(directory), levels)
        connection.send(None)
        for number, change in enumerate(changes):
            at = None if turn is None else turn + number
            outcome = bench.scan(change, at)
            connection.send([*([] if outcome is None else [outcome]), *bench.ask(change, at)])


def try_all(
    name: str, vmcore: Path, changes: list[Change], levels: tuple[int, ...], in_turn: bool = False
) -> Iterator[Trial]:
    """Try changes in another process, and in a new one after it died; `in_turn`: see `Bench.scan`."""
    context = multiprocessing.get_context("spawn")
    at = 0
    while at < len(changes):
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(vmcore, changes[at:], levels, at if in_turn else None, theirs))
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
