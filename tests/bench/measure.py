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
    return Run(usage.ru_utime + usage.ru_stime, wall, nbytes)


def peak_pss_nbytes(command: list[str], output: Path) -> int:
    """Run a command once more, and return the most memory that it and its children had together (PSS)."""
    output.unlink(missing_ok=True)
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
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
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stderr.split()
    names = [name for name in listed if name != "__main__" and not name.startswith("numpy.")]
    return [sys.executable, "-c", f"import os; os.environ['OPENBLAS_NUM_THREADS'] = '1'; import {', '.join(names)}"]
