# SPDX-License-Identifier: GPL-2.0-or-later
"""A thousand dumps on a cluster of this machine, whose workers are killed at random, as is who hands out the dumps.

    python -m tests.fleet_trial [--dumps N] [--kills N] | --speed N | --scale N,N [--plot SVG] |
        --parts SIZE | --split GIB

The dumps are real ones in many forms, under many names, and every twentieth is damaged. Every good dump must be in the
catalogue once, with the release that its name says, and every damaged one must be named as failed. ``--speed`` compares
one worker with two, ``--scale`` measures what handing out and writing down costs as the number of dumps grows, and
``--parts`` has a large machine's dump made in eight parts by two workers, and compares them with one run's; ``--split``
compares how fast one worker and two make eight parts of a dump that CPUs are busy to compress.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import numpy as np

from tests import harness
from tests.builders.pages import Block
from tests.builders.vmcore import Description, build
from tests.readers import ElfDump

KERNELS = ("x86_64-5.10", "x86_64-6.1", "x86_64-6.12", "x86_64-7.2")

FORMS = {
    "lzo": ["-l", "-d", "31"],
    "zstd": ["-z", "-d", "31"],
    "raw": ["-d", "31"],
    "cache": ["-l", "-d", "16"],
    "elf": ["-E", "-d", "31"],
}
DAMAGED_EVERY = 20
CHUNK_NBYTES = 1 << 20


def make_dumps(folder: Path, n_dumps: int, rng: random.Random) -> tuple[dict[str, str], set[str]]:
    """Make the dumps; return the releases of the good ones by name, and the names of the damaged ones."""
    originals: dict[tuple[str, str], Path] = {}
    for name in KERNELS:
        vmcore = harness.distilled_vmcore(name)
        originals[name, "vmcore"] = vmcore
        for form, options in FORMS.items():
            originals[name, form] = folder / f".{name}-{form}"
            harness.run_ok(*options, vmcore, originals[name, form])
    releases, good, damaged = {name: release_of(harness.distilled_vmcore(name)) for name in KERNELS}, {}, set()
    for i in range(n_dumps):
        (name, form), original = rng.choice(list(originals.items()))
        path = folder / f"{i % 10}" / f"{i:05}-{name}-{form}"
        path.parent.mkdir(exist_ok=True)
        if i % DAMAGED_EVERY:
            path.symlink_to(original)
            good[str(path)] = releases[name]
        else:
            with open(original, "rb") as file:
                head = bytearray(file.read(rng.randrange(100, 60_000)))
            head[rng.randrange(16, 90) :] = rng.randbytes(50)
            path.write_bytes(head)
            damaged.add(str(path))
    return good, damaged


def release_of(vmcore: Path) -> str:
    """The release that VMCOREINFO says, found without npdump."""
    with open(vmcore, "rb") as file:
        head = file.read(1 << 16)
    return head.partition(b"OSRELEASE=")[2].partition(b"\n")[0].decode()


def fleet(folder: Path, catalogue: Path, address: str, *options: str) -> subprocess.Popen[str]:
    command = [*harness.npdump_command(), "fleet", folder, "--do", "info,signature", "--catalogue", catalogue]
    command += ["--scheduler", address, "--message-level", "4", *options]
    environment = os.environ | {"PYTHONPATH": str(harness.REPOSITORY)}
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def ended(catalogue: Path) -> dict[str, tuple[str, str, str]]:
    """State, release and time of the dumps that are ended, by path."""
    with contextlib.suppress(sqlite3.Error), sqlite3.connect(f"file:{catalogue}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT dump, state, release, seconds FROM dumps WHERE state != 'begun'")
        return {path: tuple(values) for path, *values in rows}
    return {}


class Crew:
    """Two workers of a cluster; one that dies is replaced, as Slurm or Kubernetes do it.

    Dask's own nannies give up a worker that is killed while it starts.
    """

    def __init__(self, address: str) -> None:
        self.command = [sys.executable, "-m", "distributed.cli.dask_worker", address]
        self.command += ["--no-nanny", "--nthreads", "1", "--no-dashboard"]
        self.workers = [self._start(), self._start()]

    def _start(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": str(harness.REPOSITORY)}
        return subprocess.Popen(self.command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def replace_dead(self) -> None:
        self.workers = [worker if worker.poll() is None else self._start() for worker in self.workers]

    def kill_one(self, rng: random.Random) -> None:
        """Kill a worker, or a process that it has for a dump."""
        pids = [worker.pid for worker in self.workers]
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if b"npdump.fleet._serve" in path.read_bytes():
                    parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
                    pids += [int(path.parent.name)] if parent in pids else []
        os.kill(rng.choice(pids), signal.SIGKILL)

    def end(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()


def trial(n_dumps: int, n_kills: int) -> dict[str, object]:
    """Do all of it, and return what was measured."""
    from distributed import LocalCluster

    rng = random.Random(17)
    with (
        tempfile.TemporaryDirectory() as directory,
        LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=None) as cluster,
    ):
        folder, catalogue = Path(directory) / "dumps", Path(directory) / "fleet.sqlite"
        folder.mkdir()
        good, damaged = make_dumps(folder, n_dumps, rng)
        crew = Crew(cluster.scheduler_address)
        start, n_killed, known = time.monotonic(), 0, {}
        client = fleet(folder, catalogue, cluster.scheduler_address)
        while client.poll() is None:
            time.sleep(rng.uniform(0.5, 4.0))
            done = ended(catalogue)
            if not known and len(done) > n_dumps // 2:
                client.kill()
                client.wait()
                known = ended(catalogue)
                client = fleet(folder, catalogue, cluster.scheduler_address, "--json")
            elif n_killed < n_kills and done and rng.random() < 0.8:
                with contextlib.suppress(ProcessLookupError):
                    crew.kill_one(rng)
                    n_killed += 1
            crew.replace_dead()
        answer, said = client.communicate()
        assert answer, f"the fleet ended with {client.returncode}: {said[-2000:]}"
        seconds = time.monotonic() - start
        crew.end()
        tally, rows = json.loads(answer), ended(catalogue)
    lost = {path for path, release in good.items() if rows.get(path, ("", ""))[:2] != ("done", release)}
    unnamed = {path for path in damaged if rows.get(path, ("",))[0] != "failed"}
    repeated = {path for path in known if known[path] != rows[path]}
    return {
        "dumps": n_dumps,
        "damaged": len(damaged),
        "killed": n_killed,
        "seconds": round(seconds, 1),
        "known at restart": tally["n_known"],
        "good dumps without the right row": sorted(lost),
        "damaged dumps that were not named": sorted(unnamed),
        "answers made twice": sorted(repeated),
        "rows": len(rows),
    }


def speed(n_dumps: int) -> dict[str, float]:
    """Seconds for the same dumps with one worker and with two."""
    from distributed import LocalCluster

    seconds = {}
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "dumps"
        folder.mkdir()
        make_dumps(folder, n_dumps, random.Random(1))
        for n_workers in (1, 2):
            with LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=None) as cluster:
                start = time.monotonic()
                fleet(folder, Path(directory) / f"{n_workers}.sqlite", cluster.scheduler_address).communicate()
                seconds[f"{n_workers} workers"] = round(time.monotonic() - start, 2)
    return seconds


def parts(size: str) -> dict[str, object]:
    """Make the dump of a built machine whole, and in eight parts by two workers; compare what they hold."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        builder = [sys.executable, "-m", "tests.builders.large", "--size", size, folder / "vmcore"]
        subprocess.run(builder, check=True, cwd=harness.REPOSITORY, stdout=subprocess.DEVNULL)
        names = [folder / f"part{i}" for i in range(8)]
        seconds = {}
        for name, command in {
            "one run": ["-l", "-d", "31", "--num-threads", "1", folder / "vmcore", folder / "whole"],
            "eight parts": ["--split", "--jobs", "2", "-l", "-d", "31", folder / "vmcore", *names],
        }.items():
            start = time.monotonic()
            harness.run_ok(*command, timeout=3600)
            seconds[name] = round(time.monotonic() - start, 1)
        harness.run_ok("--reassemble", *names, folder / "joined", timeout=3600)
        compared = harness.run("compare", folder / "whole", folder / "joined", timeout=3600)
        peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    differences = [] if compared.returncode == 0 else compared.stdout.splitlines()
    return {"machine": size, "seconds": seconds, "most MiB of a process": peak_mib, "differences": differences}


def split(n_gib: int) -> dict[str, object]:
    """Seconds for eight parts of a machine whose pages all differ, compressed with zlib, by one worker and by two."""
    times: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as directory:
        vmcore = Path(directory) / "vmcore"
        ram = [(0x1000, 0x9FC00), (1 << 20, n_gib << 30)]
        build(vmcore, Description(ram=ram, background=Block(0, "anon", 9), fill=0))
        fill(vmcore)
        for n_workers in (1, 2):
            names = [Path(directory) / f"part{i}" for i in range(8)]
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            subprocess.run(
                [*harness.npdump_command(), "-f", "--split", "--jobs", str(n_workers), "-c", "-d", "1", vmcore, *names],
                check=True,
                capture_output=True,
            )
            seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            times[f"{n_workers} workers"] = {"seconds": round(seconds, 1), "of CPU": round(cpu, 1)}
    return times


def fill(vmcore: Path) -> None:
    """Give pages of zeros contents that differ, and that zlib makes half as large."""
    rng = np.random.default_rng(1)
    with open(vmcore, "r+b") as file:
        for load in ElfDump(vmcore).loads:
            for offset in range(load.offset, load.offset + load.filesz - CHUNK_NBYTES, CHUNK_NBYTES):
                if os.pread(file.fileno(), CHUNK_NBYTES, offset) == bytes(CHUNK_NBYTES):
                    os.pwrite(file.fileno(), rng.integers(96, 112, CHUNK_NBYTES, np.uint8).tobytes(), offset)


def scale(counts: list[int]) -> dict[str, dict[int, float]]:
    """Milliseconds of CPU, of all processes, for each dump that is no dump at all: all but the work on it."""
    from distributed import LocalCluster

    measured: dict[str, dict[int, float]] = {"this machine": {}, "Dask": {}}
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        for n in counts:
            for where, options in (("this machine", []), ("Dask", ["--scheduler", cluster.scheduler_address])):
                with tempfile.TemporaryDirectory() as directory:
                    for i in range(n):
                        (Path(directory) / f"{i:06}").write_bytes(b"no dump")
                    command = ["fleet", directory, "--do", "info", "--catalogue", f"{directory}/.c", *options]
                    start = cpu_seconds()
                    subprocess.run(
                        [*harness.npdump_command(), *command, "--message-level", "0"], check=True, timeout=3600
                    )
                    measured[where][n] = round((cpu_seconds() - start) / n * 1000, 2)
    return measured


def cpu_seconds() -> float:
    """What this process has used, with those below it that have ended and those that run."""
    psutil = import_module("psutil")  # which Dask needs, and which says no types
    own = psutil.Process()
    ended = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    running: float = sum(sum(process.cpu_times()[:4]) for process in own.children(recursive=True))
    return float(sum(own.cpu_times()[:2])) + ended + running


def plot(measured: dict[str, dict[int, float]], path: str) -> None:
    """Draw what `scale` measured."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "npdump"
    figure = Figure((6, 3), layout="constrained")
    axes = figure.subplots()
    for where, costs in measured.items():
        axes.loglog(list(costs), list(costs.values()), "o-", label=where)
        for n, cost in costs.items():
            axes.annotate(f"{cost:g}", (n, cost), (4, 4), textcoords="offset points", fontsize="small")
    axes.set(xlabel="dumps", ylabel="ms of CPU for each, to hand it\nout and write its answer down")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fleet_trial", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dumps", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--speed", type=int, metavar="N", help="time N dumps with one worker and with two, instead")
    parser.add_argument("--parts", metavar="SIZE", help="make a machine of this size, as 64G, in eight parts, instead")
    parser.add_argument("--split", type=int, metavar="GIB", help="time parts with one worker and with two, instead")
    parser.add_argument("--scale", metavar="N,N", help="measure the cost for each of so many dumps, instead")
    parser.add_argument("--plot", metavar="SVG", help="draw what --scale measures")
    arguments = parser.parse_args()
    if arguments.scale:
        costs = scale([int(n) for n in arguments.scale.split(",")])
        if arguments.plot:
            plot(costs, arguments.plot)
        result: dict[str, object] = dict(costs)
    elif arguments.split:
        result = split(arguments.split)
    elif arguments.parts:
        result = parts(arguments.parts)
    elif arguments.speed:
        result = dict(speed(arguments.speed))
    else:
        result = trial(arguments.dumps, arguments.kills)
    json.dump(result, sys.stdout, indent=1)
    sys.stdout.write("\n")
    return int(any(isinstance(value, list) and value for value in result.values()))


if __name__ == "__main__":
    sys.exit(main())
