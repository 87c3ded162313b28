"""npdump and makedumpfile side by side: time, size and memory of the same work, as ratios of one run.

    python -m tests.bench.versus [--makedumpfile PROGRAM] [--runs N] [--level N]... [--json] VMCORE...

The two programs take turns, so that whatever else the machine does disturbs both; what counts are medians of the
ratios. npdump's start-up (interpreter, imports) is measured by itself and shown beside.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FORMS = {"zlib": ["-c"], "lzo": ["-l"], "snappy": ["-p"], "zstd": ["-z"], "raw": [], "elf": ["-E"]}
NPDUMP = [sys.executable, "-m", "npdump"]


class Run(NamedTuple):
    """What one run of a command cost: seconds of CPU and wall clock, bytes of output, most bytes resident at once."""

    cpu: float
    wall: float
    output_nbytes: int
    peak_nbytes: int


class Row(NamedTuple):
    """One line of the table; ratios are makedumpfile / npdump, so that more is better, but for the size."""

    vmcore: str
    form: str
    level: int
    workers: int
    cpu_ratio: float
    cpu_ratio_spread: tuple[float, float]
    cpu_ratio_without_startup: float
    wall_ratio: float
    size_ratio: float
    makedumpfile_cpu: float
    npdump_cpu: float
    npdump_peak_mib: float


def run(command: list[str], output: Path) -> Run:
    """Run a command once; it must succeed."""
    output.unlink(missing_ok=True)
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - start
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}: {errors.decode(errors='replace').strip()}")
    nbytes = output.stat().st_size if output.exists() else 0
    return Run(usage.ru_utime + usage.ru_stime, wall, nbytes, usage.ru_maxrss * 1024)


def startup(runs: int, nowhere: Path) -> float:
    """Return the CPU seconds that npdump takes before it works: the interpreter and its imports."""
    command = [sys.executable, "-c", "import npdump.pipeline"]
    return statistics.median(run(command, nowhere).cpu for _ in range(runs))


def rows(arguments: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Measure every cell of the matrix."""
    output = folder / "dumpfile"
    base = startup(arguments.runs, output)
    for vmcore in arguments.vmcore:
        for form, options in FORMS.items():
            if arguments.form and form not in arguments.form:
                continue
            for level in arguments.level:
                for workers in arguments.workers:
                    common = [*options, "-d", str(level), "--message-level", "4", vmcore, str(output)]
                    theirs, ours = [arguments.makedumpfile, *common], [*NPDUMP, "--num-threads", str(workers), *common]
                    pairs = [(run(theirs, output), run(ours, output)) for _ in range(arguments.runs)]
                    yield summarise(Path(vmcore).name, form, level, workers, pairs, base)


def summarise(vmcore: str, form: str, level: int, workers: int, pairs: list[tuple[Run, Run]], base: float) -> Row:
    """Make a line of the table out of pairs of runs."""
    cpu = [a.cpu / b.cpu for a, b in pairs]
    return Row(
        vmcore=vmcore,
        form=form,
        level=level,
        workers=workers,
        cpu_ratio=statistics.median(cpu),
        cpu_ratio_spread=(min(cpu), max(cpu)),
        cpu_ratio_without_startup=statistics.median(a.cpu / max(b.cpu - base, 0.001) for a, b in pairs),
        wall_ratio=statistics.median(a.wall / b.wall for a, b in pairs),
        size_ratio=pairs[0][1].output_nbytes / max(pairs[0][0].output_nbytes, 1),
        makedumpfile_cpu=statistics.median(a.cpu for a, _ in pairs),
        npdump_cpu=statistics.median(b.cpu for _, b in pairs),
        npdump_peak_mib=max(b.peak_nbytes for _, b in pairs) / 2**20,
    )


def as_text(row: Row) -> str:
    """Lay out a line of the table."""
    low, high = row.cpu_ratio_spread
    return (
        f"{row.vmcore:<28} {row.form:<7}{row.level:>3}{row.workers:>3}  {row.cpu_ratio:6.2f} ({low:.2f}-{high:.2f})"
        f"{row.cpu_ratio_without_startup:8.2f}{row.wall_ratio:8.2f}{row.size_ratio:8.3f}"
        f"{row.makedumpfile_cpu:9.2f}{row.npdump_cpu:8.2f}{row.npdump_peak_mib:8.0f}"
    )


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.versus", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("vmcore", nargs="+", metavar="VMCORE")
    parser.add_argument("--makedumpfile", default=shutil.which("makedumpfile"), metavar="PROGRAM")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="pairs of runs for each line (default: 5)")
    parser.add_argument("--form", action="append", choices=FORMS, help="only this form of output; may be repeated")
    parser.add_argument("--level", type=int, action="append", help="dump level; may be repeated (default: 1 and 31)")
    parser.add_argument("--workers", type=int, action="append", help="npdump's --num-threads (default: 1)")
    parser.add_argument("--folder", help="where the dump files go (default: a temporary one)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.makedumpfile is None:
        parser.error("makedumpfile isn't installed: apt-get install makedumpfile, or name it with --makedumpfile")
    arguments.level = arguments.level or [1, 31]
    arguments.workers = arguments.workers or [1]
    return arguments


def main(argv: list[str]) -> None:
    """Print the table."""
    arguments = parse(argv)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.json:
            print(json.dumps([row._asdict() for row in rows(arguments, Path(folder))], indent=2))
            return
        print("ratios are makedumpfile / npdump; 'work' has npdump's start-up taken off; seconds of CPU; peak in MiB")
        print(f"{'vmcore':<28} {'form':<7}{'-d':>3}{'n':>3}  {'cpu':>6} (spread)   {'work':>8}{'wall':>8}{'size':>8}"
              f"{'theirs':>9}{'ours':>8}{'peak':>8}")
        for row in rows(arguments, Path(folder)):
            print(as_text(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
