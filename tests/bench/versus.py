# SPDX-License-Identifier: GPL-2.0-or-later
"""npdump and makedumpfile side by side: time, size and memory of the same work, as ratios of one run.

    python -m tests.bench.versus [--makedumpfile PROGRAM] [--runs N] [--rows KIND]... [--update FILE] VMCORE...

The two programs take turns, so that whatever else the machine does disturbs both; what counts are medians of the
ratios. On dumps that makedumpfile does in under a second npdump's start-up (the interpreter and its imports), which is
measured by itself, is taken off.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.filled import build_filled
from tests.bench.measure import NPDUMP, Run, own_cost, peak_pss_nbytes, run, startup_command
from tests.bench.plot import Curve, draw
from tests.bench.table import RESULT, Row, cells, description, name_of, update
from tests.builders import large
from tests.builders.pages import Block
from tests.builders.vmcore import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FORMS = {
    "-l": "-l",
    "-p": "-p",
    "none": "",
    "-z": "-z",
    "-c": "-c",
    "-c, same bytes": "-c --zlib-engine zlib",
    "-E": "-E",
}
CPU_GOALS = {
    "-l": (1.2, 1.0),
    "-p": (1.2, 1.0),
    "none": (1.1, 1.0),
    "-z": (1.2, 1.05),
    "-c": (3.3, 2.0),
    "-c, same bytes": (1.1, 1.0),
    "-E": (2.0, 2.0),
}
"""At dump levels 1 and 31."""
WALL_GOALS = {"-l": 1.6, "-p": 1.6, "-z": 1.8, "-c": 4.0, "-E": 1.5, "-F -l": 1.5}
"""At dump level 1."""
SHORT_SECONDS = 1.0
QUIET = ["--message-level", "4"]


class Bench:
    """What all rows need: the programs, a folder for output, how often, and npdump's start-up."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.makedumpfile = [arguments.makedumpfile, *QUIET]
        self.output = folder / "dumpfile"
        self.folder = folder
        self.n_runs = arguments.runs
        self.levels = arguments.level

    def compare(self, what: str, theirs: list[list[str]], ours: list[str], key: str, goal: float | None) -> Row:
        """Run commands in turns; of several of theirs the best counts."""
        self.output.unlink(missing_ok=True)
        startup = startup_command(ours[len(NPDUMP) :])
        pairs: list[tuple[Run, Run, float]] = []
        for _ in range(self.n_runs):
            best = min((run(command, self.output) for command in theirs), key=lambda one: getattr(one, key))
            pairs.append((best, run(ours, self.output), getattr(run(startup, self.folder / "none"), key)))
        theirs_seconds = statistics.median(getattr(one, key) for one, _, _ in pairs)
        base = statistics.median(seconds for _, _, seconds in pairs)
        off = base if theirs_seconds < SHORT_SECONDS else 0.0
        ratios = [getattr(one, key) / max(getattr(other, key) - off, 0.001) for one, other, _ in pairs]
        nbytes = pairs[0][0].output_nbytes
        return Row(
            what=what,
            ratio=statistics.median(ratios),
            low=min(ratios),
            high=max(ratios),
            goal=goal,
            theirs_seconds=theirs_seconds,
            ours_seconds=statistics.median(getattr(other, key) for _, other, _ in pairs),
            startup_seconds=off,
            size_ratio=pairs[0][1].output_nbytes / nbytes if nbytes else None,
            peak_mib=peak_pss_nbytes(ours, self.output) / 2**20,
        )

    def commands(self, *arguments: str, threads: int | None = None) -> tuple[list[str], list[str]]:
        """Return makedumpfile's command for arguments, and npdump's; only the latter knows engines."""
        used = [word for argument in arguments for word in argument.split()]
        own = [] if threads is None else ["--num-threads", str(threads)]
        theirs = " ".join(used).replace("--zlib-engine zlib", "").split()
        return [*self.makedumpfile, *theirs], [*NPDUMP, *QUIET, *own, *used]

    def cpu(self, vmcore: str) -> Iterator[Row]:
        """CPU time with one thread."""
        for form, flags in FORMS.items():
            for level in self.levels:
                theirs, ours = self.commands(flags, "-d", level, vmcore, str(self.output), threads=1)
                goal = dict(zip(("1", "31"), CPU_GOALS[form], strict=True)).get(level)
                yield self.compare(f"{name_of(vmcore)} {form} -d {level}, CPU, 1 thread", [theirs], ours, "cpu", goal)

    def wall(self, vmcore: str) -> Iterator[Row]:
        """Wall-clock time with the threads that npdump takes, against the best of makedumpfile with 1 or 2 threads."""
        for form, goal in WALL_GOALS.items():
            output = [] if "-F" in form else [str(self.output)]
            theirs, ours = self.commands(form, "-d", "1", vmcore, *output)
            many = [] if form == "-E" else [[*self.makedumpfile, "--num-threads", "2", *theirs[3:]]]
            yield self.compare(f"{name_of(vmcore)} {form} -d 1, wall", [theirs, *many], ours, "wall", goal)

    def refilter(self, vmcore: str) -> Iterator[Row]:
        """From level 1 to level 31, of makedumpfile's file."""
        level1 = self.folder / "level1"
        for flag, goal in (("-c", 10.0), ("-l", 5.0)):
            run([*self.makedumpfile, flag, "-d", "1", vmcore, str(level1)], level1)
            theirs, ours = self.commands(flag, "-d", "31", str(level1), str(self.output))
            what = f"{name_of(vmcore)} {flag} -d 1 to -d 31, wall"
            yield self.compare(what, [theirs], ours, "wall", goal)
        level1.unlink()

    def refilter_filled(self, size: str, vmcore: str) -> Iterator[Row]:
        """The same of a built machine with so much memory in use, beside which the start of a program is little."""
        filled = self.folder / f"{size} in use"
        build_filled(filled, large.parse_size(size), vmcore)
        yield from self.refilter(str(filled))
        filled.unlink()

    def copy(self, vmcore: str) -> Iterator[Row]:
        """-E against ``cp`` of the same bytes."""
        _, ours = self.commands("-E", "-d", "1", vmcore, str(self.output))
        kept = self.folder / "kept"
        run([*ours[:-1], str(kept)], kept)
        theirs = ["cp", "--sparse=never", str(kept), str(self.output)]
        yield self.compare(f"{name_of(vmcore)} -E -d 1 against cp, wall", [theirs], ours, "wall", 0.6)
        kept.unlink()

    def start(self, vmcore: str) -> Iterator[Row]:
        """What npdump imports for a short run, against the import of NumPy alone: a ratio of 1 / 1.6 is the goal."""
        _, ours = self.commands("-l", "-d", "31", vmcore, str(self.output))
        theirs = [sys.executable, "-c", "import os; os.environ['OPENBLAS_NUM_THREADS'] = '1'; import numpy"]
        self.output.unlink(missing_ok=True)
        what = "start of npdump -l -d 31 against import numpy, CPU"
        row = self.compare(what, [theirs], startup_command(ours[len(NPDUMP) :]), "cpu", 1 / 1.6)
        ratio = row.theirs_seconds / row.ours_seconds
        yield row._replace(ratio=ratio, low=ratio, high=ratio, startup_seconds=0.0, size_ratio=None, peak_mib=None)

    def memory(self, vmcore: str) -> Iterator[Row]:
        """The most memory (PSS) with one thread, and what each further one takes."""
        peaks = {}
        for threads in (1, 2, 4):
            _, ours = self.commands("-l", "-d", "1", vmcore, str(self.output), threads=threads)
            peaks[threads] = max(peak_pss_nbytes(ours, self.output) for _ in range(self.n_runs)) / 2**20
        for what, goal, mib in (
            ("one thread", 56, peaks[1]),
            ("each further thread, of 4", 6, (peaks[4] - peaks[1]) / 3),
        ):
            ratio = goal / mib if mib > 0 else goal
            name = f"{name_of(vmcore)} -l -d 1, {what}: at most {goal} MiB"
            yield Row(name, ratio, ratio, ratio, 1.0, 0.0, 0.0, 0.0, peak_mib=mib)

    def own(self, vmcore: str) -> Iterator[Row]:
        """What npdump itself does for a page, between reading, codec and writing; at most 1 µs."""
        for level in self.levels:
            arguments = [*QUIET, "--num-threads", "1", "-l", "-d", level, vmcore, str(self.output)]
            costs = [own_cost(arguments, self.output) for _ in range(self.n_runs)]
            cost = statistics.median(cost.own for cost in costs)
            codec, reading, writing = (statistics.median(cost[i] for cost in costs) for i in (1, 2, 3))
            parts = f"own {cost:.2f} µs a page; LZO {codec:.2f}, reading {reading:.2f}, writing {writing:.2f}"
            ratios = [1 / one.own for one in costs]
            what = f"{name_of(vmcore)} -l -d {level}, {parts}"
            yield Row(what, statistics.median(ratios), min(ratios), max(ratios), 1.0, 0.0, 0.0, 0.0)

    def scan(self, size: str) -> Iterator[Row]:
        """Only telling what each page is, on a machine of so much memory: nearly all free, user data, or short runs."""
        vmcore = self.folder / "large"
        for what, background in (
            ("free memory", large.FREE),
            ("user data", Block(0, "anon", 0)),
            ("mixed pages", large.mixed()),
        ):
            build(vmcore, large.describe(large.parse_size(size), has_memmap=False, background=background))
            theirs, ours = self.commands("--dry-run", "-d", "30", str(vmcore), str(self.output), threads=1)
            yield self.compare(f"{size} of {what} --dry-run -d 30, CPU", [theirs], ours, "cpu", 1.0)
            vmcore.unlink()

    def seconds(self, command: list[str]) -> float:
        """Median wall-clock seconds of a command."""
        return statistics.median(run(command, self.output).wall for _ in range(self.n_runs))

    def curves(self, vmcore: str, sizes: list[str]) -> list[Curve]:
        """Return seconds against threads, and against memory, for the plot; no machine below 8 GiB can be built."""
        by_threads = []
        for form in ("-c", "-z", "-l"):
            points = []
            for threads in (1, 2, 4):
                _, ours = self.commands(form, "-d", "1", vmcore, str(self.output), threads=threads)
                points.append((float(threads), self.seconds(ours)))
            by_threads.append(Curve(f"{form} -d 1, npdump", points))
        by_size: dict[str, list[tuple[float, float]]] = {"npdump": [], "makedumpfile": []}
        large_vmcore = self.folder / "large"
        for size in sizes:
            nbytes = large.parse_size(size)
            build(large_vmcore, large.describe(nbytes, has_memmap=False))
            theirs, ours = self.commands("--dry-run", "-d", "30", str(large_vmcore), str(self.output), threads=1)
            by_size["makedumpfile"].append((nbytes / 2**30, self.seconds(theirs)))
            by_size["npdump"].append((nbytes / 2**30, self.seconds(ours)))
            large_vmcore.unlink()
        return [*by_threads, *(Curve(f"scan, {name}", points) for name, points in by_size.items())]


KINDS: dict[str, Callable[[Bench, str], Iterator[Row]]] = {
    "cpu": Bench.cpu,
    "wall": Bench.wall,
    "refilter": Bench.refilter,
    "copy": Bench.copy,
    "start": Bench.start,
    "memory": Bench.memory,
    "own": Bench.own,
}


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.versus", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("vmcore", nargs="*", metavar="VMCORE")
    parser.add_argument("--makedumpfile", default=shutil.which("makedumpfile"), metavar="PROGRAM")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="runs of each program for a line (default: 5)")
    parser.add_argument("--rows", action="append", choices=KINDS, help="only these lines; may be repeated")
    parser.add_argument("--level", action="append", help="dump level; may be repeated (default: 1 and 31)")
    parser.add_argument("--scan", action="append", metavar="SIZE", help="also scan a built dump of so much memory (1T)")
    parser.add_argument(
        "--refilter", action="append", metavar="SIZE", help="also filter again so much memory in use (4G)"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw seconds against threads and memory there, as an SVG")
    parser.add_argument("--folder", help="where the dump files go (default: a temporary one)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--update", metavar="FILE", help=f"replace what is below {RESULT!r} in a text by the table")
    arguments = parser.parse_args(argv)
    if arguments.makedumpfile is None:
        parser.error("makedumpfile isn't installed: apt-get install makedumpfile, or name it with --makedumpfile")
    arguments.level = arguments.level or ["1", "31"]
    return arguments


def main(argv: list[str]) -> None:
    """Print the table."""
    arguments = parse(argv)
    found: list[Row] = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        bench = Bench(arguments, Path(folder))
        tasks = [(KINDS[kind], vmcore) for vmcore in arguments.vmcore for kind in arguments.rows or KINDS]
        tasks += [(Bench.scan, size) for size in arguments.scan or []]
        again = partial(Bench.refilter_filled, vmcore=arguments.vmcore[0]) if arguments.vmcore else None
        tasks += [(again, size) for size in arguments.refilter or [] if again]
        for measure, subject in tasks:
            for row in measure(bench, subject):
                found.append(row)
                if not arguments.json:
                    print("{:<70}{:>7}  {:<12}{:>6}{:>11}{:>10}{:>18}{:>8}{:>10}".format(*cells(row)), flush=True)
        if arguments.plot:
            curves = bench.curves(arguments.vmcore[0], ["8G", "64G", "256G", "1T"])
            Path(arguments.plot).write_text(draw(curves), encoding="utf-8")
    if arguments.json:
        print(json.dumps([row._asdict() for row in found], indent=2))
    if arguments.update:
        what = f"{description(arguments.makedumpfile)}; medians of {arguments.runs} runs."
        update(Path(arguments.update), what, found)


if __name__ == "__main__":
    main(sys.argv[1:])
