# SPDX-License-Identifier: GPL-2.0-or-later
"""The disk of a guest: Debian with kdump-tools, and npdump from its package. Needs root and mmdebstrap."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = (
    "linux-image-cloud-amd64,systemd-sysv,udev,initramfs-tools,kdump-tools,makedumpfile,kexec-tools,python3-numpy,"
    "python3-pyelftools,liblzo2-2,libsnappy1v5,libzstd1,libdeflate0,zstd,procps,kmod"
)

# A chroot has no root device, which the initramfs could be made for.
BEFORE = (
    'mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d" && '
    'echo MODULES=list > "$1/etc/initramfs-tools/conf.d/modules" && '
    "printf 'virtio_pci\\nvirtio_blk\\next4\\n' > \"$1/usr/share/initramfs-tools/modules.d/guest\""
)

PANIC = """\
[Unit]
After=kdump-tools.service
ConditionKernelCommandLine=guest.crash
[Service]
Type=oneshot
StandardOutput=journal+console
ExecStart=/bin/sh -c 'cat /usr/bin/* /usr/lib/x86_64-linux-gnu/* >/dev/null 2>&1; kdump-config status; \
    sync; echo guest: this is the crash >/dev/kmsg; echo c >/proc/sysrq-trigger'
[Install]
WantedBy=multi-user.target
"""

# What is free is lowest at some moment: one that lasts less than a tenth of a second is missed.
SAMPLER = """\
[Unit]
DefaultDependencies=no
ConditionPathExists=/proc/vmcore
[Service]
ExecStart=/bin/bash -c 'low=99999999; while :; do while read -r name n unit; do case $name in MemTotal:) total=$n;; \
    MemAvailable:) (( n < low )) && { low=$n; echo "guest: sample total $total low $low" >/dev/console; };; esac; \
    done </proc/meminfo; sleep 0.1; done'
"""

# The same in an initramfs, where sleep knows whole seconds only; it ends when the real root takes over.
EARLY_SAMPLER = """\
#!/bin/sh
case $1 in prereqs) exit 0;; esac
[ -s /proc/vmcore ] || exit 0
low=99999999
while :; do
    while read -r name n unit; do
        case $name in
            MemTotal:) total=$n ;;
            MemAvailable:) free=$n ;;
        esac
    done </proc/meminfo
    [ "$free" -ge "$low" ] || { low=$free; echo "guest: sample total $total low $low" >/dev/console; }
    sleep 1 || exit
done &
"""

SAMPLED = "[Unit]\nWants=guest-sampler.service\nAfter=guest-sampler.service\n"


def make_root(root: Path) -> None:
    """Install Debian into a folder."""
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", '--aptopt=Apt::Install-Recommends "false"']
    command += [f"--essential-hook={BEFORE}", f"--include={PACKAGES}", "bookworm", str(root)]
    subprocess.run(command, check=True)


def configure(root: Path, package: Path, configuration: str, *, drop_in: bool) -> None:
    """Install npdump and what makes a guest crash."""
    shutil.copy(package, root / "npdump.deb")
    subprocess.run(["chroot", root, "dpkg", "--install", "/npdump.deb"], check=True, stdout=subprocess.DEVNULL)
    (root / "npdump.deb").unlink()
    units = root / "etc/systemd/system"
    drop_ins = units / "kdump-tools-dump.service.d"
    shutil.rmtree(drop_ins, ignore_errors=True)
    drop_ins.mkdir()
    (units / "guest-panic.service").write_text(PANIC)
    (units / "guest-sampler.service").write_text(SAMPLER)
    (drop_ins / "guest.conf").write_text(SAMPLED)
    early = root / "etc/initramfs-tools/scripts/local-premount/guest"
    early.write_text(EARLY_SAMPLER)
    early.chmod(0o755)
    wants = units / "multi-user.target.wants/guest-panic.service"
    wants.unlink(missing_ok=True)
    wants.symlink_to("/etc/systemd/system/guest-panic.service")
    if drop_in:
        shutil.copy(root / "usr/share/doc/npdump/examples/kdump-tools-dump.conf", drop_ins / "npdump.conf")
    (root / "etc/npdump").mkdir(exist_ok=True)
    (root / "etc/npdump/collector.conf").write_text(configuration)
    hook = root / "etc/kernel/postinst.d/kdump-tools"
    (release,) = (path.name.removeprefix("vmlinuz-") for path in (root / "boot").glob("vmlinuz-*"))
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    inside = str(hook.relative_to(root))
    subprocess.run(["chroot", root, f"/{inside}", release], check=True, env=environment, capture_output=True, text=True)


def make_disk(root: Path, disk: Path, size_mib: int = 3072) -> None:
    """Make a file system of a folder."""
    disk.unlink(missing_ok=True)
    with disk.open("wb") as file:
        file.truncate(size_mib << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, disk], check=True)


def initramfs_nbytes(root: Path) -> int:
    """Return how large the capture kernel's initramfs is."""
    (path,) = (root / "var/lib/kdump").glob("initrd.img-*")
    return path.stat().st_size
