# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that puts canaries everywhere and crashes, and QEMU's dump of its memory."""

from __future__ import annotations

import json
import lzma
import shutil
import socket
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).parent
MODULES = (
    *("virtio_pci", "virtio_blk", "qemu_fw_cfg", "ext4", "crc32c_generic"),
    *("dm_crypt", "cbc", "xts", "ecb", "md5", "aesni_intel"),
)
TIMEOUT_SECONDS = 900


def module_paths(tree: Path, release: str) -> list[Path]:
    """Return the files of `MODULES`, as far as they are not built in, and of what they need, in loading order."""
    base = tree / "lib/modules" / release
    subprocess.run(["depmod", "-b", tree, release], check=True)
    needs = dict(line.split(":") for line in (base / "modules.dep").read_text().splitlines())
    paths = {Path(path).name.partition(".ko")[0].replace("-", "_"): path for path in needs}
    order: list[str] = []

    def add(path: str) -> None:
        for need in reversed(needs[path].split()):
            add(need)
        if path not in order:
            order.append(path)

    for name in MODULES:
        if name in paths:
            add(paths[name])
    return [base / path for path in order]


def make_initramfs(target: Path, tree: Path, release: str, folder: Path) -> None:
    """Make an initramfs of busybox, the canaries and modules."""
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "modules"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    shutil.copy(HERE / "init", root / "init")
    (root / "init").chmod(0o755)
    compiler = ["gcc", "-Wall", "-O1", "-static", "-pthread", "-o", root / "canaries", HERE / "canaries.c"]
    subprocess.run(compiler, check=True)
    names = []
    for path in module_paths(tree, release):
        names.append(path.name.partition(".ko")[0] + ".ko")
        raw = path.read_bytes()
        (root / "modules" / names[-1]).write_bytes(lzma.decompress(raw) if path.suffix == ".xz" else raw)
    (root / "modules/order").write_text("\n".join(names))
    files = "\n".join(str(path.relative_to(root)) for path in root.rglob("*"))
    command = ["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"]
    made = subprocess.run(command, cwd=root, input=files.encode(), stdout=subprocess.PIPE, check=True)
    target.write_bytes(made.stdout)


def make_disks(folder: Path) -> list[Path]:
    """Make the disk of the file system, and the one under dm-crypt."""
    disks = [folder / "data.img", folder / "crypt.img"]
    for disk in disks:
        with disk.open("wb") as file:
            file.truncate(32 << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", disks[0]], check=True)
    return disks


class Monitor:
    """QEMU's monitor (QMP)."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._answers = self._socket.makefile("r")
        self._answers.readline()
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: object) -> object:
        """Have QEMU do something, and return what it says."""
        self._socket.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self._answers.readline())
            if "error" in answer:
                raise RuntimeError(answer["error"]["desc"])
            if "return" in answer:
                return answer["return"]


def crash(tree: Path, seed: int, folder: Path, vmcore: Path, memory_mib: int) -> None:
    """Boot a guest, let it crash, and save its memory.

    Parameters
    ----------
    tree : Path
        An unpacked package of a kernel, with ``boot`` and ``lib/modules``.
    seed : int
        Of the canaries.
    folder : Path
        For all that is made on the way.
    vmcore : Path
    memory_mib : int
    """
    (image,) = (tree / "boot").glob("vmlinuz-*")
    release = image.name.removeprefix("vmlinuz-")
    initramfs, monitor, log = folder / "initramfs", folder / "qmp", folder / "console"
    make_initramfs(initramfs, tree, release, folder)
    command = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=single", "-cpu", "max,cx16=off"]
    command += ["-m", str(memory_mib), "-nodefaults", "-nographic", "-serial", f"file:{log}"]
    command += ["-qmp", f"unix:{monitor},server=on,wait=off", "-device", "vmcoreinfo"]
    for disk in make_disks(folder):
        command += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"]
    command += ["-kernel", str(image), "-initrd", str(initramfs)]
    command += ["-append", f"console=ttyS0 panic=0 no_timer_check canaries={seed}"]
    monitor.unlink(missing_ok=True)
    process = subprocess.Popen(command)
    try:
        stop = time.monotonic() + TIMEOUT_SECONDS
        while not log.exists() or "end Kernel panic" not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > stop:
                raise RuntimeError(f"the guest did not crash: see {log}")
            time.sleep(1)
        text = log.read_text(errors="replace")
        if "@@FAILED" in text or "@@READY" not in text:
            raise RuntimeError(f"a canary could not be placed: see {log}")
        vmcore.unlink(missing_ok=True)
        Monitor(monitor).command("dump-guest-memory", paging=False, protocol=f"file:{vmcore}")
    finally:
        process.kill()
        process.wait()
