# SPDX-License-Identifier: GPL-2.0-or-later
"""The disk of a guest: Debian with kdump-tools, and npdump from its package. Needs root and mmdebstrap."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ssh_server import Server

GATEWAY = "10.0.2.2"
"""The machine that QEMU runs on, for its guest."""

PACKAGES = (
    "linux-image-cloud-amd64,systemd-sysv,udev,initramfs-tools,dracut-core,kdump-tools,makedumpfile,kexec-tools,"
    "python3-numpy,python3-pyelftools,liblzo2-2,libsnappy1v5,libzstd1,libdeflate0,zstd,procps,kmod,openssh-client"
)

# A chroot has no root device, which the initramfs could be made for.
BEFORE = (
    'mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d" && '
    'echo MODULES=list > "$1/etc/initramfs-tools/conf.d/modules" && '
    "printf 'virtio_pci\\nvirtio_blk\\nvirtio_net\\next4\\n' > \"$1/usr/share/initramfs-tools/modules.d/guest\""
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

# Instead of all of Debian: in the crashing kernel nothing else matters, and emulated it takes minutes.
QUICK = """\
#!/bin/sh
[ ! -s /proc/vmcore ] || exec /sbin/init
kdump-config load
cat /usr/bin/* /usr/lib/x86_64-linux-gnu/* >/dev/null 2>&1
sync
echo guest: this is the crash >/dev/kmsg
echo c >/proc/sysrq-trigger
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

DRACUT_MODULE = """\
#!/bin/bash
check() { return 255; }
install() {
    inst_multiple sleep
    inst_hook pre-mount 50 "$moddir/sampler.sh"
}
"""

SAMPLED = "[Unit]\nWants=guest-sampler.service\nAfter=guest-sampler.service\n"


CAPTURE = "reset_devices systemd.unit=kdump-tools-dump.service nr_cpus=1 irqpoll usbcore.nousb"
"""What kdump-tools has a capture kernel do, by default."""

KDUMP = """\
USE_KDUMP=1
KDUMP_KERNEL=/var/lib/kdump/vmlinuz
KDUMP_INITRD=/var/lib/kdump/initrd.img
KDUMP_COREDIR=/var/crash
"""


def make_root(root: Path, suite: str) -> None:
    """Install Debian into a folder; lists of packages of a mirror that stands still are taken, too."""
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", '--aptopt=Apt::Install-Recommends "false"']
    command += ['--aptopt=Acquire::Check-Valid-Until "false"', f"--essential-hook={BEFORE}", f"--include={PACKAGES}"]
    command += [suite, str(root)]
    subprocess.run(command, check=True)


def send_to(root: Path, server: Server, folder: Path) -> str:
    """Have a guest know an ssh server; return what configures npdump-collect to send to it."""
    # The initramfs has the key.
    (root / "etc/initramfs-tools/conf.d/umask").write_text("UMASK=0077\n")
    ssh = root / "root/.ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(server.key, ssh / "kdump_id_rsa")
    (ssh / "known_hosts").write_text(server.known_hosts(GATEWAY))
    options = f"-p {server.port} -i /root/.ssh/kdump_id_rsa -o BatchMode=yes -o StrictHostKeyChecking=yes"
    return f'TARGETS="ssh:{server.user}@{GATEWAY}:{folder}"\nSSH_OPTIONS="{options}"\n'


def configure(root: Path, package: Path, configuration: str, kdump: str, *, drop_in: bool, has_dracut: bool) -> None:
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
    module = root / "usr/lib/dracut/modules.d/96guest"
    module.mkdir(exist_ok=True)
    scripts = {
        root / "etc/initramfs-tools/scripts/local-premount/guest": EARLY_SAMPLER,
        module / "sampler.sh": EARLY_SAMPLER,
        module / "module-setup.sh": DRACUT_MODULE,
        root / "usr/local/sbin/quick": QUICK,
    }
    for path, text in scripts.items():
        path.write_text(text)
        path.chmod(0o755)
    wants = units / "multi-user.target.wants/guest-panic.service"
    wants.unlink(missing_ok=True)
    wants.symlink_to("/etc/systemd/system/guest-panic.service")
    if drop_in:
        shutil.copy(root / "usr/share/doc/npdump/examples/kdump-tools-dump.conf", drop_ins / "npdump.conf")
    (root / "etc/npdump").mkdir(exist_ok=True)
    (root / "etc/npdump/collector.conf").write_text(configuration)
    (root / "etc/default/kdump-tools").write_text(KDUMP + kdump)
    hook = root / "etc/kernel/postinst.d/kdump-tools"
    (release,) = (path.name.removeprefix("vmlinuz-") for path in (root / "boot").glob("vmlinuz-*"))
    run_in(root, f"/{hook.relative_to(root)}", release)
    # Where this is missing, kdump-tools makes the initramfs anew, in the guest.
    shutil.copy(root / "etc/kdump/sysctl.conf", root / f"var/lib/kdump/latest_sysctls-{release}")
    if has_dracut:
        command = [
            "dracut",
            "--force",
            "--no-hostonly",
            "--modules",
            "base fs-lib rootfs-block udev-rules npdump guest",
        ]
        command += ["--drivers", "virtio_pci virtio_blk ext4", f"/var/lib/kdump/initrd.img-{release}", release]
        run_in(root, *command)


def run_in(root: Path, *command: str) -> None:
    """Run a command of a guest's, as far as that can be done here."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    subprocess.run(["chroot", root, *command], check=True, env=environment, capture_output=True, text=True)


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
