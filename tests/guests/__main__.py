# SPDX-License-Identifier: GPL-2.0-or-later
"""Let Debian guests crash, and look at what is on their disks: ``make test-guests``, as root, with QEMU.

Each guest loads its capture kernel with kdump-tools, fills its page cache and panics. The capture kernel saves
and restarts; that ends QEMU. Printed are, for each guest: whether the log has the crash and the dump is whole and
sound, how long the capture kernel ran until it had the dump and restarted, how much of its memory was used at most, and
how large its initramfs was. Without KVM a guest takes some minutes. Its time is counted in instructions then, a
nanosecond each, so that it is the same however busy this machine is; idling takes no time of this machine's.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests import ssh_server
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
    suite: str = "bookworm"
    kdump: str = ""
    """Lines for kdump-tools' own configuration."""
    has_dracut: bool = False
    """Whether dracut makes the capture kernel's initramfs, not initramfs-tools."""
    is_remote: bool = False
    """Whether it saves by ssh, to this machine."""
    is_quick: bool = True
    """Whether the kernel that crashes starts nothing of Debian but kdump-tools."""
    is_counted: bool = True
    """Whether its time is counted in instructions. With CMA, the kernel waits for DMA to end: minutes, if counted."""


BY_MAKEDUMPFILE = "NPDUMP=/nonexistent/npdump\n"
IN_INITRAMFS = "INITRAMFS=kdump\n"
#: /proc/vmcore leaves out what is in CMA if the kernel itself makes its header (kexec_file_load(2)).
CMA = "128M crashkernel=160M,cma"
IN_CMA = {"drop_in": False, "suite": "testing", "kdump": 'KDUMP_KEXEC_ARGS="-s"\n', "is_counted": False}

GUESTS = {
    "npdump-1g": Guest("npdump, real root", 1024, "256M", is_quick=False),
    "makedumpfile-1g": Guest("makedumpfile, real root", 1024, "256M", BY_MAKEDUMPFILE),
    "initramfs-1g": Guest("npdump, initramfs", 1024, "256M", IN_INITRAMFS, drop_in=False),
    "dracut-1g": Guest("npdump, dracut", 1024, "256M", IN_INITRAMFS, drop_in=False, has_dracut=True),
    "ssh-1g": Guest(
        "npdump, initramfs, ssh", 1024, "256M", IN_INITRAMFS + "INITRAMFS_NETWORK=yes\n", drop_in=False, is_remote=True
    ),
    "npdump-2g": Guest("npdump, real root", 2048, "320M"),
    "makedumpfile-2g": Guest("makedumpfile, real root", 2048, "320M", BY_MAKEDUMPFILE),
    "npdump-4g": Guest("npdump, initramfs", 4096, "256M", IN_INITRAMFS, drop_in=False),
    "makedumpfile-4g": Guest("makedumpfile, initramfs", 4096, "256M", IN_INITRAMFS + BY_MAKEDUMPFILE, drop_in=False),
    "makedumpfile-initramfs-1g": Guest(
        "makedumpfile, initramfs", 1024, "256M", IN_INITRAMFS + BY_MAKEDUMPFILE, drop_in=False
    ),
    "small-1g": Guest("npdump, real root", 1024, "160M"),
    "small-initramfs-1g": Guest("npdump, initramfs", 1024, "192M", IN_INITRAMFS, drop_in=False),
    "killed-1g": Guest("npdump, killed", 1024, "256M", "NPDUMP=/usr/local/sbin/dies\n"),
    "npdump-testing": Guest("npdump, real root", 1024, "256M", suite="testing", is_quick=False),
    "makedumpfile-testing": Guest("makedumpfile, real root", 1024, "256M", BY_MAKEDUMPFILE, suite="testing"),
    "npdump-cma": Guest("npdump, initramfs", 1024, CMA, IN_INITRAMFS, **IN_CMA),
    "makedumpfile-cma": Guest("makedumpfile, initramfs", 1024, CMA, IN_INITRAMFS + BY_MAKEDUMPFILE, **IN_CMA),
}


class Line(NamedTuple):
    """A line of a guest's console, with the seconds since its start."""

    seconds: float
    text: str


def stamp(lines: list[Line], pattern: str) -> float:
    """Return the capture kernel's time in front of the last line with a pattern, 0 if there is none."""
    crashed = next(
        (number for number, line in enumerate(lines) if "Kernel panic - not syncing" in line.text), len(lines)
    )
    found = [line.text for line in lines[crashed:] if re.search(pattern, line.text)]
    time_of = re.search(r"\[ *(\d+\.\d+)\]", found[-1]) if found else None
    return float(time_of[1]) if time_of else 0.0


def run_guest(guest: Guest, disk: Path, root: Path, log: Path) -> list[Line]:
    """Boot a guest and wait until it ends."""
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    (initrd,) = (root / "boot").glob("initrd.img-*")
    # What a guest asks of 10.0.2.2, QEMU asks of this machine's loopback.
    append = f"root=/dev/vda rw console=ttyS0 net.ifnames=0 crashkernel={guest.crashkernel} guest.crash panic=-1"
    append += " init=/usr/local/sbin/quick" if guest.is_quick else ""
    network = "user,model=virtio-net-pci" if guest.is_remote else "none"
    command = ["qemu-system-x86_64", "-m", str(guest.memory_mib), "-nographic", "-no-reboot", "-kernel", str(kernel)]
    accelerator = os.environ.get("NPDUMP_GUEST_ACCEL", "tcg")
    command += ["-accel", accelerator, "-cpu", "max", "-initrd", str(initrd)]
    if accelerator == "tcg" and guest.is_counted:
        # A network's answers come in this machine's time.
        command += ["-icount", f"shift=0,sleep={'on' if guest.is_remote else 'off'}"]
    command += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe", "-append", append, "-nic", network]
    started, lines = time.monotonic(), []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, errors="replace")
    timer = threading.Timer(TIMEOUT_SECONDS, process.kill)
    timer.start()
    with log.open("w") as file:
        for text in process.stdout:
            lines.append(Line(time.monotonic() - started, text.rstrip()))
            print(f"{lines[-1].seconds:8.2f} {lines[-1].text}", file=file, flush=True)
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


def judge(crash: Path) -> str:
    """Return what is in a folder of crashes, in words."""
    logs = [path for path in crash.glob("*/dmesg.*") if "this is the crash" in path.read_text(errors="replace")]
    dumps = [path for path in crash.glob("*/dump.*") if not path.name.endswith((".incomplete", ".part"))]
    sound = [
        path
        for path in dumps
        if not subprocess.run(
            [sys.executable, "-m", "npdump", "check", path], cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=False
        ).returncode
    ]
    sizes = ", ".join(f"{path.stat().st_size / (1 << 20):.1f} MiB" for path in dumps)
    others = [path.name for path in crash.glob("*/*") if path.name.endswith((".incomplete", ".part"))]
    return f"logs {len(logs)}, dumps {len(dumps)} ({sizes}), sound {len(sound)}, incomplete {len(others)}"


def tell(name: str, guest: Guest, lines: list[Line], found: str, initramfs_nbytes: int) -> None:
    """Print a line of the table."""
    # In an initramfs, what scripts print has no time in front.
    stamps = {"dump": stamp(lines, "dump: (saved|sent) by|saved vmcore in"), "restart": stamp(lines, "reboot: ")}
    took = ", ".join(f"{what} after {seconds:.0f} s" for what, seconds in stamps.items() if seconds) or "no restart"
    samples = [match for line in lines if (match := re.search(r"sample total (\d+) low (\d+)", line.text))]
    total, low = map(int, samples[-1].groups()) if samples else (0, 0)
    size = f"{initramfs_nbytes / (1 << 20):.1f} MiB"
    print(
        f"{name:<16} {guest.who:<24} memory {guest.memory_mib} MiB, crashkernel {guest.crashkernel}: {took}, "
        f"peak {total - low >> 10} of {total >> 10} MiB, initramfs {size}; {found}",
        flush=True,
    )


def main() -> None:
    """Run the guests that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.guests", description=__doc__)
    parser.add_argument("--package", type=Path, required=True, help="npdump's Debian package")
    parser.add_argument("--folder", type=Path, required=True, help="where Debian is installed, once, and disks are")
    parser.add_argument("guests", nargs="*", help=f"which of {', '.join(GUESTS)}; all by default")
    arguments = parser.parse_args()
    for name in arguments.guests or GUESTS:
        try_guest(name, GUESTS[name], arguments.package, arguments.folder)


def try_guest(name: str, guest: Guest, package: Path, folder: Path) -> None:
    """Make the disk of a guest, let it crash, and print what came of it."""
    root, disk, log = folder / guest.suite, folder / f"{name}.img", folder / f"{name}.console"
    if not root.exists():
        folder.mkdir(parents=True, exist_ok=True)
        image.make_root(root, guest.suite)
    dies = root / "usr/local/sbin/dies"
    dies.write_text('#!/bin/sh\nnpdump "$@" &\nsleep 6\nkill -9 $! && wait $!\n')
    dies.chmod(0o755)
    with ExitStack() as stack:
        configuration, kdump, crash = guest.configuration, guest.kdump, None
        if guest.is_remote:
            crash = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
            server = stack.enter_context(ssh_server.serving(crash / "ssh"))
            configuration += image.send_to(root, server, crash)
            kdump += f'KDUMP_CMDLINE_APPEND="{image.CAPTURE} ip=dhcp"\n'
        image.configure(root, package, configuration, kdump, drop_in=guest.drop_in, has_dracut=guest.has_dracut)
        image.make_disk(root, disk)
        lines = run_guest(guest, disk, root, log)
        crash = crash or stack.enter_context(mounted(disk)) / "var/crash"
        tell(name, guest, lines, judge(crash), image.initramfs_nbytes(root))
    disk.unlink()


if __name__ == "__main__":
    main()
