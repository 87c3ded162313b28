# SPDX-License-Identifier: GPL-2.0-or-later
"""What one run of a command costs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

NPDUMP = [sys.executable, "-m", "npdump"]
_SAMPLE_SECONDS = 0.02


class Run(NamedTuple):
    """Seconds of CPU and wall clock, and bytes of output."""

    cpu: float
    wall: float
    output_nbytes: int


def environment() -> dict[str, str]:
    """Return an environment in which npdump is compiled, as pip leaves it: Python may write its bytecode."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run(command: list[str], output: Path) -> Run:
    """Run a command once; it must succeed. What it writes to its standard output goes to the output if it has -F."""
    output.unlink(missing_ok=True)
    target = str(output) if "-F" in command else os.devnull
    start = time.monotonic()
    with (
        open(target, "wb") as stdout,
        subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, env=environment()) as process,
    ):
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - start
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}: {errors.decode(errors='replace').strip()}")
    nbytes = output.stat().st_size if output.exists() else 0
    return Run(usage.ru_utime + usage.ru_stime, wall, nbytes)


def peak_pss_nbytes(command: list[str], output: Path) -> int:
    """Run a command once more, and return the most memory that it and its children had together (PSS)."""
    output.unlink(missing_ok=True)
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()) as process:
        while process.poll() is None:
            peak = max(peak, _pss_nbytes(process.pid))
            time.sleep(_SAMPLE_SECONDS)
    return peak


def _pss_nbytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return 0
    own = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return own + sum(_pss_nbytes(int(child)) for child in children)


def startup_command(arguments: list[str]) -> list[str]:
    """Return a command that imports what npdump imports for some arguments, and does nothing else."""
    code = "import sys; from npdump.cli.main import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", code, *arguments]
    # With -F the standard output is no text.
    result = subprocess.run(command, capture_output=True, check=True, env=environment())
    listed = result.stderr.decode().splitlines()[-1].split()
    names = [name for name in listed if name != "__main__" and not name.startswith("numpy.")]
    return [sys.executable, "-c", f"import os; os.environ['OPENBLAS_NUM_THREADS'] = '1'; import {', '.join(names)}"]


class Own(NamedTuple):
    """What npdump itself does for each page, in microseconds of CPU: all but codecs, reading and writing."""

    own: float
    codec: float
    reading: float
    writing: float


_OWN = """
import os, sys, time
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import npdump.core
spent = {}
def timed(where, name, kind):
    function = getattr(where, name)
    def timing(*arguments):
        start = time.thread_time_ns()
        try:
            return function(*arguments)
        finally:
            spent[kind] = spent.get(kind, 0) + time.thread_time_ns() - start
    setattr(where, name, timing)
class Core: pass
core, Core = npdump.core.CORE, Core()
for name in dir(core):
    setattr(Core, name, getattr(core, name))
timed(Core, "compress", "codec")
timed(Core, "read_ranges", "reading")
read = Core.read_ranges
def read_first(fd, offsets, sizes, out, page_size, keys):
    n_read = read(fd, offsets, sizes, out, page_size, keys[:0])
    core.digests(page_size, out[: len(keys) * page_size], keys)  # npdump's own, and made while reading
    return n_read
Core.read_ranges = read_first
timed(os, "pwrite", "writing")
npdump.core.CORE = Core
from npdump.encode import threads
from npdump.writers import kdump
pages = []
def counted(job, batches, offset, n_threads):
    start = time.thread_time_ns()
    for done in threads.run(job, batches, offset, n_threads):
        spent["all"] = spent.get("all", 0) + time.thread_time_ns() - start
        pages.append(done.npages)
        yield done
        start = time.thread_time_ns()
kdump.run = counted
from npdump.cli.main import main
code = main(sys.argv[1:])
n = sum(pages) * 1000
codec, reading, writing = (spent.get(kind, 0) / n for kind in ("codec", "reading", "writing"))
print(spent["all"] / n - codec - reading - writing, codec, reading, writing, file=sys.stderr)
sys.exit(code)
"""


def own_cost(arguments: list[str], output: Path) -> Own:
    """Run npdump once with one thread and clocks around what isn't its own; needs the compiled core."""
    output.unlink(missing_ok=True)
    command = [sys.executable, "-c", _OWN, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    return Own(*map(float, result.stderr.split()[-4:]))
