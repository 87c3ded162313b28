# SPDX-License-Identifier: GPL-2.0-or-later
"""What npdump is asked about a damaged file, in this process, and whether the answer will do."""

from __future__ import annotations

import io
import os
import random
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from npdump.cli import parsing
from npdump.cli.flags import build_parser
from npdump.cli.main import main
from tests.bounded import MAX_SECONDS, Broken, bounded
from tests.fuzz.mutate import mutated
from tests.fuzz.seeds import MAKERS, Seed, good_vmcore, kept_of_vmlinux, make_own, small_vmlinux, under
from tests.readers import open_dump

if TYPE_CHECKING:
    from pathlib import Path

EXIT_CODES = (0, 1, 2)
KDUMP_INCOMPLETE = 8
#: More than 4 times the input.
MEMORY_NBYTES = 100 << 20

_FILTERS = (["-l", "-d31"], ["-c", "-d1"], ["-E", "-d31"], ["-l", "-d0"], ["-E", "-d1"])
_QUESTIONS = (
    ["info"],
    ["info", "--json"],
    ["--dump-dmesg"],
    ["--mem-usage"],
    ["--vtop", "0xffffffff81000000"],
)
#: A slab, a page table, kernel text, a stack, a module's area and a page that a CPU keeps.
_PAGES_OF_OWN = (0x4001, 0x4004, 0x1001, 0x4100, 0x4200, 0x4300)


class Finding(NamedTuple):
    """What was wrong, with which command line."""

    kind: str
    args: list[str]
    detail: str


def _beside(reader: str, path: Path, out: Path) -> list[list[str]] | None:
    """All command lines for a file that is no dump, None if it is one; what is good lies beside it."""
    good = str(path.with_name("good"))
    if reader in ("vmlinux", "cache"):
        return [["-g", str(out), "-x", str(path) if reader == "vmlinux" else good]]
    if reader == "config":
        check = ["--check-config", "--config", str(path), good]
        return [check, ["--num-threads", "1", "-l", "-d31", "--config", str(path), good, str(out)]]
    if reader == "skeleton":
        return [["compare", str(path), good], ["compare", "--json", str(path), good]]
    if reader == "facts":
        options = [["-i", str(path)], ["-i", str(path), "--override"]]
        return [[*option, "--num-threads", "1", "-l", "-d31", good, str(out)] for option in options]
    return None


def place(reader: str, data: bytes, folder: Path) -> Path:
    """Write a damaged file where npdump looks for it, and what is good beside it; return where the damaged one is."""
    path = folder / "input"
    if reader == "cache":
        os.environ["XDG_CACHE_HOME"] = str(folder)
        path = folder / "npdump" / kept_of_vmlinux()[0]
        path.parent.mkdir(mode=0o700, exist_ok=True)
        (folder / "good").write_bytes(small_vmlinux())
        path.unlink(missing_ok=True)
        path.touch(0o600)
    elif reader in ("facts", "skeleton") and not (folder / "good").exists():
        (folder / "good").write_bytes(good_vmcore())
    elif reader == "config" and not (folder / "good").exists():
        make_own(folder / "good")
    whole = under(reader)
    if whole is None:
        path.write_bytes(data)
        return path
    whole.put(path, data)
    return path


def all_command_lines(reader: str, path: Path, out: Path) -> list[list[str]]:
    """All command lines for a file of a kind; ``out`` is what they write."""
    if (beside := _beside(reader, path, out)) is not None:
        return beside
    found = [[*question, str(path)] for question in _QUESTIONS]
    found += [["explain", str(path), f"pfn:{pfn:#x}"] for pfn in (_PAGES_OF_OWN if reader == "own" else (0x14,))]
    return found + [["--num-threads", "1", *options, str(path), str(out)] for options in _filters(reader)]


def _filters(reader: str) -> list[list[str]]:
    return [[*(["-X"] if reader == "xen" else []), *options] for options in _FILTERS]


def command_lines(reader: str, rng: random.Random, path: Path, out: Path) -> list[list[str]]:
    """Some of the command lines for a file of a kind; ``out`` is what they write."""
    if (beside := _beside(reader, path, out)) is not None:
        return beside
    questions = list(rng.sample(_QUESTIONS, 2))
    is_log = reader in ("log", "records")
    if is_log:
        questions = [["--dump-dmesg"], ["info"]]
    found = [[*question, str(path)] for question in questions]
    if reader == "own":
        found = [["explain", str(path), *(f"pfn:{pfn:#x}" for pfn in _PAGES_OF_OWN)], questions[0] + [str(path)]]
    elif rng.random() < 0.3:
        found.append(["explain", str(path), f"pfn:{rng.randrange(1 << 10):#x}"])
    if not is_log and (reader != "own" or rng.random() < 0.3):
        found.append(["--num-threads", "1", *rng.choice(_filters(reader)), str(path), str(out)])
    return found


def _run(args: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    stdin, handlers = sys.stdin, {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main(args)
    finally:
        sys.stdin = stdin
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return code, out.getvalue(), err.getvalue()


def _n_readable(dump: Any) -> int:
    """How many pages a reader gets; -1 if some are lost and the dump doesn't say so."""
    if dump.kind == "elf":
        return sum(1 for _ in dump.contents())
    lost = {int(pfn) for pfn in dump.pfns.tolist() if dump.is_lost(int(pfn))}
    if lost and not dump.status & KDUMP_INCOMPLETE:
        return -1
    return sum(len(dump.page(int(pfn))) > 0 for pfn in dump.pfns.tolist() if pfn not in lost)


def _judge(args: list[str], result: tuple[int, str, str], out: Path) -> Finding | None:
    code, said, err = result
    if code not in EXIT_CODES:
        return Finding("exit", args, f"exit {code}: {err[-200:]}")
    if "Traceback" in err + said:
        return Finding("traceback", args, err[-300:])
    # That two dumps differ is an answer, and what a configuration doesn't find.
    if code and not (err.strip() or (args[0] in ("compare", "--check-config") and said.strip())):
        return Finding("silence", args, f"exit {code} without a word")
    if any(ord(character) < 32 and character not in "\n\r\t" for character in err + said):
        return Finding("escape", args, "control characters reach the terminal")
    if code == 0 and out.exists() and "-g" not in args:
        try:
            n = _n_readable(open_dump(out))
        except Exception as error:  # whatever a reader that shares nothing with npdump says
            return Finding("unreadable", args, repr(error)[:200])
        if n < 0:
            return Finding("unreadable", args, "pages are lost, and the dump says that it's whole")
    return None


def tried(reader: str, data: bytes, rng: random.Random | None, folder: Path) -> list[Finding]:
    """Ask about a file, all that can be asked without `rng`; return what was wrong."""
    path, out = place(reader, data, folder), folder / "out"
    found = []
    lines = all_command_lines(reader, path, out) if rng is None else command_lines(reader, rng, path, out)
    for args in lines:
        out.unlink(missing_ok=True)
        result = bounded(lambda args=args: _run(args), 4 * path.stat().st_size + MEMORY_NBYTES, MAX_SECONDS)
        if isinstance(result, Broken):
            found.append(Finding(result.kind, args, result.detail))
        elif (finding := _judge(args, result, out)) is not None:
            found.append(finding)
    return found


class Fuzzer:
    """Damaged files of one kind, by number: the same number is always the same file."""

    def __init__(self, reader: str) -> None:
        self.reader = reader
        self.seeds: list[Seed] = MAKERS[reader]()
        os.environ["XDG_CACHE_HOME"] = "/proc/nowhere"
        # The same options each time.
        vars(parsing)["build_parser"] = cache(build_parser)

    def data(self, number: int) -> bytes:
        """The file."""
        rng = random.Random(f"{self.reader} {number}")
        return mutated(rng.choice(self.seeds), rng)

    def try_number(self, number: int, folder: Path) -> list[Finding]:
        """Try a file."""
        return tried(self.reader, self.data(number), random.Random(number), folder)
