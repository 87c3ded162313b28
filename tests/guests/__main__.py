# SPDX-License-Identifier: GPL-2.0-or-later
"""Let Debian guests crash, and look at what is on their disks: ``make test-guests``, as root, with QEMU.

Each guest boots, loads its capture kernel with kdump-tools, fills its page cache and panics. The capture kernel saves
and restarts; that ends QEMU. Printed are, for each guest: whether the log has the crash and the dump is whole and
sound, how long it took from the panic to the dump, how much of the capture kernel's memory was used at most, and how
large its initramfs was. Without KVM a guest takes some minutes, and only the ratios of times mean something.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.guests import image
from tests.harness import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_SECONDS = 1500


class Guest(NamedTuple):
    """A guest: its memory, what it reserves, and who saves."""

    who: str
    memory_mib: int
    crashkernel: str
    configuration: str = ""
    drop_in: bool = True


GUESTS = {
    "npdump-1g": Guest("npdump, real root", 1024, "256M"),
    "makedumpfile-1g": Guest("makedumpfile, real root", 1024, "256M", "NPDUMP=/nonexistent/npdump\n"),
    "initramfs-1g": Guest("npdump, initramfs", 1024, "256M", "INITRAMFS=kdump\n", drop_in=False),
    "npdump-2g": Guest("npdump, real root", 2048, "320M"),
    "makedumpfile-2g": Guest("makedumpfile, real root", 2048, "320M", "NPDUMP=/nonexistent/npdump\n"),
    "killed-1g": Guest("npdump, killed", 1024, "256M", "NPDUMP=/usr/local/sbin/dies\n"),
}


class Line(NamedTuple):
    """A line of a guest's console, with the seconds since its start, and those that QEMU had of a CPU."""

    seconds: float
    cpu_seconds: float
    text: str


def first(lines: list[Line], pattern: str) -> Line | None:
    """Return the first line with a pattern."""
    return next((line for line in lines if re.search(pattern, line.text)), None)


def cpu_seconds(pid: int) -> float:
    """Return how long a process had a CPU: on a busy machine that says more than the clock."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_guest(guest: Guest, disk: Path, root: Path, log: Path) -> list[Line]:
    """Boot a guest and wait until it ends."""
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    (initrd,) = (root / "boot").glob("initrd.img-*")
    append = f"root=/dev/vda rw console=ttyS0 crashkernel={guest.crashkernel} guest.crash panic=-1"
    command = ["qemu-system-x86_64", "-m", str(guest.memory_mib), "-nographic", "-no-reboot", "-kernel", str(kernel)]
    command += ["-accel", os.environ.get("NPDUMP_GUEST_ACCEL", "tcg"), "-cpu", "max", "-initrd", str(initrd)]
    command += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe", "-append", append, "-net", "none"]
    started, lines = time.monotonic(), []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, errors="replace")
    timer = threading.Timer(TIMEOUT_SECONDS, process.kill)
    timer.start()
    with log.open("w") as file:
        for text in process.stdout:
            lines.append(Line(time.monotonic() - started, cpu_seconds(process.pid), text.rstrip()))
            print(f"{lines[-1].seconds:8.2f} {lines[-1].cpu_seconds:7.2f} {lines[-1].text}", file=file, flush=True)
    process.wait()
    timer.cancel()
    return lines


@contextmanager
def mounted(disk: Path) -> Iterator[Path]:
    """Mount a guest's disk."""
    folder = disk.with_suffix(".mnt")
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", disk, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def judge(disk: Path) -> str:
    """Return what is on a guest's disk, in words."""
    with mounted(disk) as root:
        crash = root / "var/crash"
        logs = [path for path in crash.glob("2*/dmesg.*") if "this is the crash" in path.read_text(errors="replace")]
        dumps = [path for path in crash.glob("2*/dump.*") if not path.name.endswith(".incomplete")]
        sound = [
            path
            for path in dumps
            if not subprocess.run(
                [sys.executable, "-m", "npdump", "check", path], cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=False
            ).returncode
        ]
        sizes = ", ".join(f"{path.stat().st_size / (1 << 20):.1f} MiB" for path in dumps)
        others = [path.name for path in crash.glob("2*/*") if path.name.endswith(".incomplete")]
    return f"logs {len(logs)}, dumps {len(dumps)} ({sizes}), sound {len(sound)}, incomplete {len(others)}"


def tell(name: str, guest: Guest, lines: list[Line], disk: Path, initramfs_nbytes: int) -> None:
    """Print a line of the table."""
    panicked, saved = first(lines, "Kernel panic - not syncing"), first(lines, "dump: saved by|saved vmcore in")
    took = "never"
    if panicked and saved:
        took = f"{saved.seconds - panicked.seconds:.0f} s ({saved.cpu_seconds - panicked.cpu_seconds:.0f} s of CPU)"
    samples = [match for line in lines if (match := re.search(r"sample total (\d+) low (\d+)", line.text))]
    total, low = map(int, samples[-1].groups()) if samples else (0, 0)
    size = f"{initramfs_nbytes / (1 << 20):.1f} MiB"
    print(
        f"{name:<16} {guest.who:<24} memory {guest.memory_mib} MiB, crashkernel {guest.crashkernel}: {took}, "
        f"peak {total - low >> 10} of {total >> 10} MiB, initramfs {size}; {judge(disk)}",
        flush=True,
    )


def main() -> None:
    """Run the guests that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.guests", description=__doc__)
    parser.add_argument("--package", type=Path, required=True, help="npdump's Debian package")
    parser.add_argument("--folder", type=Path, required=True, help="where Debian is installed, once, and disks are")
    parser.add_argument("guests", nargs="*", help=f"which of {', '.join(GUESTS)}; all by default")
    arguments = parser.parse_args()
    root = arguments.folder / "root"
    if not root.exists():
        arguments.folder.mkdir(parents=True, exist_ok=True)
        image.make_root(root)
    dies = root / "usr/local/sbin/dies"
    dies.write_text('#!/bin/sh\nnpdump "$@" &\nsleep 6\nkill -9 $! && wait $!\n')
    dies.chmod(0o755)
    for name in arguments.guests or GUESTS:
        guest, disk = GUESTS[name], arguments.folder / f"{name}.img"
        image.configure(root, arguments.package, guest.configuration, drop_in=guest.drop_in)
        image.make_disk(root, disk)
        lines = run_guest(guest, disk, root, arguments.folder / f"{name}.console")
        tell(name, guest, lines, disk, image.initramfs_nbytes(root))
        disk.unlink()


if __name__ == "__main__":
    main()
