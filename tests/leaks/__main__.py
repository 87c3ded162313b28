# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure which canaries of a crashed guest are left at each dump level, and after ``npdump redact``: ``make leaks``.

Needs gcc with a static C library, busybox-static, cpio, mke2fs, depmod, gdb and QEMU. The guest takes a minute or two.
Each line of the table is a place, each column a dump level; a canary counts as left if 8 of its 16 bytes are. Then the
stack of a thread is unwound from a dump at level 31 with the extension user_stacks.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from npdump import open as open_vmcore
from npdump.kernel.objects import Crashed
from tests.harness import REPOSITORY
from tests.leaks import guest
from tests.leaks.scan import PLACES, survivors
from tests.leaks.unwind import backtrace

SEED = 20261125


def npdump(*arguments: str | Path) -> None:
    """Run npdump."""
    command = [sys.executable, "-m", "npdump", "--message-level", "4", "-f", *arguments]
    if arguments[0] == "redact":
        command = [sys.executable, "-m", "npdump", "redact", "--strict", "--message-level", "4", "-f", *arguments[1:]]
    subprocess.run(command, cwd=REPOSITORY, check=True)


def main() -> int:
    """Print the table; return 1 if a canary is left after redacting."""
    parser = argparse.ArgumentParser(prog="python -m tests.leaks", description=__doc__)
    parser.add_argument("--kernel", type=Path, required=True, help="an unpacked linux-image package")
    parser.add_argument("--folder", type=Path, required=True, help="for the guest and its dumps")
    parser.add_argument("--levels", default="0-31", help="such as 0-31, the default")
    parser.add_argument("--memory", type=int, default=320, help="MiB; the default is 320")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    vmcore, out = arguments.folder / "vmcore", arguments.folder / "dump"
    if not vmcore.exists():
        guest.crash(arguments.kernel, SEED, arguments.folder, vmcore, arguments.memory)
    first, last = map(int, arguments.levels.split("-"))
    columns: dict[str, dict[str, int]] = {}
    for level in range(first, last + 1):
        npdump(f"-d{level}", vmcore, out)
        columns[str(level)] = survivors(out, SEED)
    npdump("redact", vmcore, out)
    columns["redact"] = survivors(out, SEED)
    print(f"{'':18}", *(f"{name:>6}" for name in columns))
    for place in PLACES:
        print(f"{place:18}", *(f"{column[place]:>6}" for column in columns.values()))
    tell_stacks(vmcore, arguments.folder)
    out.unlink()
    return int(any(columns["redact"].values()))


def tell_stacks(vmcore: Path, folder: Path) -> None:
    """Print what keeping the stacks of all user threads costs at level 31, and a backtrace by gdb."""
    plain, kept = folder / "plain", folder / "stacks"
    npdump("-ld31", vmcore, plain)
    npdump("-ld31", "--extension", "user_stacks", vmcore, kept)
    grown = kept.stat().st_size / plain.stat().st_size - 1
    print(f"\nwith the stacks of all user threads: {100 * grown:.2f} percent larger; gdb says of one of them:")
    with open_vmcore(kept) as dump:
        threads = [task for task in Crashed(dump.names).tasks() if str(task.comm) == "canaries"]
        print(backtrace(dump, threads[-1], folder / "root/canaries", folder / "core"))
    for path in (plain, kept, folder / "core"):
        path.unlink()


if __name__ == "__main__":
    sys.exit(main())
