# SPDX-License-Identifier: GPL-2.0-or-later
"""What a distribution's script finds in a capture kernel, on this machine: a root in which makedumpfile is npdump.

It is this machine's own root under an overlay, in namespaces of its own for mounts and processes. ``/proc/vmcore`` is a
file, the console is a file, and what would end the machine writes its name down.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests import harness

ENDS = ("reboot", "poweroff", "halt", "systemctl", "umount", "journalctl", "dmesg")
"""Programs that only say that they were called: they would act on this machine, or tell of it."""

KEPT = ("consoles", "cpuinfo", "filesystems", "meminfo", "mounts", "self", "sys", "thread-self", "version")
"""What scripts find in /proc as it is."""

ENTER = """\
set -e
cd "$1"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay root
for path in "$@"; do
    mkdir -p "root$path"
    mount --bind "$path" "root$path"
done
mount -t proc proc root/actual-proc
mount -t tmpfs tmpfs root/proc
for name in {kept}; do ln -s "/actual-proc/$name" "root/proc/$name"; done
touch root/proc/vmcore root/proc/iomem
cp cmdline root/proc/cmdline
mount --bind vmcore root/proc/vmcore
mount --rbind /dev root/dev
mount --bind console root/dev/console
for path in sysroot kdump/mnt; do mount --bind "root/$path" "root/$path"; done
exec chroot root /bin/sh /command
"""


@cache
def reason_without() -> str | None:
    """Return why there can be no such root here, or None."""
    if os.getuid():
        return "mounts need root"
    if not shutil.which("unshare") or not Path("/proc/filesystems").read_text().count("overlay\n"):
        return "unshare(1) and overlayfs are needed"
    return None


class CaptureRoot:
    """A root with a vmcore; files that are written into it, or by what runs in it, are in ``upper``."""

    def __init__(self, folder: Path, vmcore: Path) -> None:
        self.folder, self.upper = folder, folder / "upper"
        for name in ("upper", "work", "root"):
            (folder / name).mkdir(parents=True)
        for name in ("actual-proc", "proc", "sysroot", "kdump/mnt"):
            (self.upper / name).mkdir(parents=True)
        (folder / "console").touch()
        (folder / "cmdline").write_text("quiet\n")
        (folder / "vmcore").symlink_to(vmcore)
        npdump = f'PYTHONPATH={harness.REPOSITORY} exec {sys.executable} -m npdump "$@"'
        self.program("makedumpfile", f'echo "$*" >>/calls\n{npdump}')
        for name in ENDS:
            self.program(name, f'echo "{name} $*" >>/ends')
        self.program("logger", 'echo "$*" >>/dev/console')

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file; its folder may be a symbolic link of this machine's, such as ``/lib``."""
        inside = self.place(path)
        inside.write_text(text)
        inside.chmod(mode)

    def program(self, name: str, text: str) -> None:
        """Write a program for a shell."""
        self.write(f"/usr/bin/{name}", f"#!/bin/sh\n{text}\n", 0o755)
        for folder in ("/usr/sbin", "/usr/local/bin", "/usr/local/sbin"):
            if Path(folder, name).exists():
                self.write(f"{folder}/{name}", f"#!/bin/sh\n{text}\n", 0o755)

    def add(self, file: Path, path: str) -> None:
        """Copy a file or folder into it."""
        if file.is_dir():
            for part in file.iterdir():
                self.add(part, f"{path}/{part.name}")
        elif file.exists():
            shutil.copy(file, self.place(path))

    def place(self, path: str) -> Path:
        """Return where a file of that name goes."""
        real = Path(os.path.realpath(Path(path).parent)) / Path(path).name
        inside = self.upper / real.relative_to("/")
        inside.parent.mkdir(parents=True, exist_ok=True)
        return inside

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run shell text in it; its output and what it says on the console are one."""
        self.write("/command", f"{command}\n")
        own = dict.fromkeys(map(str, (harness.REPOSITORY, sys.prefix, sys.base_prefix)))
        binds = [path for path in own if path != "/usr"]
        enter = ENTER.format(kept=" ".join(KEPT)).replace('"$@"', " ".join(binds))
        unshare = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private", "sh", "-c", enter, "sh"]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        done = subprocess.run(
            [*unshare, self.folder], env=environment, capture_output=True, text=True, errors="replace", check=False
        )
        done.stdout += done.stderr + (self.folder / "console").read_text(errors="replace")
        return done

    @property
    def calls(self) -> list[str]:
        """What makedumpfile was called with."""
        path = self.upper / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def ends(self) -> str:
        """What else was called."""
        path = self.upper / "ends"
        return path.read_text() if path.exists() else ""
