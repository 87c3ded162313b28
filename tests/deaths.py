# SPDX-License-Identifier: GPL-2.0-or-later
"""``make deaths``: npdump dies in npdump-collect, in many ways and at random moments; what is saved is looked at.

``python -m tests.deaths [--each N] [--seed N] [WAY...]`` needs root (a cgroup, small file systems), strace(1) and
makedumpfile. Each time there must be a log, and a dump that is whole, or one that says that it isn't and opens. Printed
is for each way who saved how often; the exit code is 1 if anything was lost, or looked whole and wasn't.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests import harness
from tests.readers import open_dump
from tests.readers.compare import content_digest, pfn_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "x86_64-6.1"
COLLECT = harness.REPOSITORY / "collector" / "npdump-collect"
NPDUMP = f'PYTHONPATH={harness.REPOSITORY} exec {sys.executable} -m npdump "$@"'
WRITES = "write,pwrite64,pwritev,copy_file_range,ftruncate,fsync,fdatasync,rename,openat"
READS = "read,pread64,preadv,mmap,openat,lseek"


SECONDS = 1.2
"""npdump takes about half of that here."""


class Way(NamedTuple):
    """A way to die: what npdump is, as a shell sees it, and how large the first target is, in bytes."""

    npdump: str
    target_nbytes: int | None = None


def by_signal(chance: random.Random) -> Way:
    return Way(f"({NPDUMP}) & sleep {chance.uniform(0, SECONDS):.3f}; kill -9 $! 2>/dev/null; wait $!")


def by_cgroup(chance: random.Random) -> Way:
    """The kernel's own killer, as in a capture kernel whose memory is too small."""
    n_bytes = chance.randint(16, 52) << 20
    group = memory_group()
    limit = group / ("memory.max" if (group / "memory.max").exists() else "memory.limit_in_bytes")
    return Way(f"echo {n_bytes} >{limit}; echo $$ >{group}/cgroup.procs; {NPDUMP}")


def by_address_space(chance: random.Random) -> Way:
    return Way(f"ulimit -v {chance.randint(24, 160) << 10}; {NPDUMP}")


def by_full_disk(chance: random.Random) -> Way:
    return Way(NPDUMP, chance.randint(1 << 18, 28 << 20))


def by_write_error(chance: random.Random) -> Way:
    return Way(injecting(chance, WRITES))


def by_read_error(chance: random.Random) -> Way:
    return Way(injecting(chance, READS))


def injecting(chance: random.Random, calls: str) -> str:
    """Return npdump of which a system call of these fails, once or from then on."""
    call, number = chance.choice(calls.split(",")), int(10 ** chance.uniform(0, 2.5))
    at = f"{number}{chance.choice(['', '+'])}"
    return f"exec strace -f -qq -o /dev/null -e inject={call}:error=EIO:when={at} sh -c '{NPDUMP}' sh \"$@\""


WAYS: dict[str, Callable[[random.Random], Way]] = {
    "kill -9": by_signal,
    "OOM (cgroup)": by_cgroup,
    "ulimit -v": by_address_space,
    "ENOSPC": by_full_disk,
    "EIO, writing": by_write_error,
    "EIO, reading": by_read_error,
}


def memory_group() -> Path:
    """Return a cgroup, of either version, whose memory may be limited."""
    old, new = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    group = (old if old.exists() else new) / "npdump-deaths"
    group.mkdir(exist_ok=True)
    return group


@contextmanager
def target(folder: Path, n_bytes: int | None) -> Iterator[Path]:
    """Make a folder; with a size, a file system of that size."""
    folder.mkdir()
    if n_bytes is None:
        yield folder
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def die(way: Way, folder: Path) -> tuple[str, bool, list[str]]:
    """Have npdump die; return who saved the dump, whether npdump failed at all, and what is wrong."""
    vmcore = harness.distilled_vmcore(NAME)
    program = folder / "npdump"
    program.write_text(f"#!/bin/sh\n{way.npdump}\n")
    program.chmod(0o755)
    (folder / "conf").write_text(f"NPDUMP={program}\nSTALL_SECONDS=60\nCOPY={'yes' if way.target_nbytes else 'no'}\n")
    with target(folder / "first", way.target_nbytes) as first:
        targets = [first] if way.target_nbytes is None else [first, folder / "second"]
        command = ["sh", COLLECT, "--config", folder / "conf", "--vmcore", vmcore]
        command += [word for path in targets for word in ("--to", path)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        files = [path for path in folder.glob("*/*/*") if path.is_file()]
        wrong = [text for path in files for text in judge(path, vmcore)]
        names = Counter(path.name.partition(".")[0] + path.suffix * (not path.suffix[1:].isdigit()) for path in files)
        said = [line for line in done.stdout.splitlines() if line.startswith("npdump-collect: ")]
        if not names["dmesg"]:
            wrong.append("no log")
        if bool(names["dump"]) != (done.returncode == 0):
            wrong.append(f"exit code {done.returncode}, and {names['dump']} dumps")
        if not names["dump"] and not names["dump.incomplete"]:
            wrong.append("nothing of the dump")
        by = [line.split(" by ")[1].split(":")[0] for line in said if "dump: saved by" in line]
        where = (
            ", second target" if len(targets) > 1 and names["dump"] and not list(first.glob("*/dump.*[0-9]")) else ""
        )
        is_dead = any(re.search(r": npdump (was|failed|isn't)", line) for line in said)
        return (by[0] + where if by else "incomplete"), is_dead, [*wrong, *(said if wrong else [])]


def judge(path: Path, vmcore: Path) -> list[str]:
    """Return what is wrong with a file."""
    if path.name.startswith("dmesg."):
        return [] if "Kernel panic" in path.read_text(errors="replace") else [f"{path.name}: no log"]
    if path.name.endswith(".incomplete"):
        told = harness.run("info", path)
        # Of a file that has no header yet, nothing can be told; it is one line all the same.
        if "Traceback" in told.stderr or (told.returncode == 0 and "incomplete" not in told.stdout + told.stderr):
            return [f"{path.name}: npdump info: exit code {told.returncode}: {told.stderr.strip()}"]
        return []
    if path.stat().st_size == vmcore.stat().st_size:
        return [] if path.read_bytes() == vmcore.read_bytes() else [f"{path.name}: another copy of the memory"]
    dump, wanted = open_dump(path), harness.reference(NAME).levels[31]
    if (pfn_digest(dump.kept), content_digest(dump.contents())) != (wanted["bitmap2"], wanted["content"]):
        return [f"{path.name}: other pages"]
    return []


def main(argv: list[str]) -> int:
    """Die in all ways."""
    parser = argparse.ArgumentParser(prog="python -m tests.deaths")
    parser.add_argument("--each", type=int, default=25, help="how often in each way")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("ways", nargs="*", help=f"of {', '.join(WAYS)}; all by default")
    options = parser.parse_args(argv)
    n_wrong = 0
    for name in options.ways or WAYS:
        saved: Counter[str] = Counter()
        n_dead = 0
        for number in range(options.each):
            way = WAYS[name](random.Random(f"{options.seed} {name} {number}"))
            with tempfile.TemporaryDirectory(prefix="npdump-deaths-") as folder:
                by, is_dead, wrong = die(way, Path(folder))
            saved[by] += 1
            n_dead += is_dead
            n_wrong += bool(wrong)
            for text in wrong:
                print(f"{name} {number}: {text}", flush=True)
        by_whom = ", ".join(f"{by} {n}" for by, n in saved.most_common())
        print(f"{name:<14}npdump died in {n_dead} of {options.each}; the dump is by {by_whom}", flush=True)
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
