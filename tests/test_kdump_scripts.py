# SPDX-License-Identifier: GPL-2.0-or-later
"""The scripts of distributions, as they are, with npdump by the name of makedumpfile: ``make test-scripts``."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import harness, ssh_server
from tests.capture_root import CaptureRoot, reason_without
from tests.readers import open_dump
from tests.readers.compare import content_digest, pfn_digest
from tests.readers.validate import problems

NAME = "x86_64-6.1"
SCRIPTS = Path(os.environ.get("NPDUMP_KDUMP_SCRIPTS", "/nonexistent"))


@pytest.fixture
def root(tmp_path, distilled):
    """Make a root with the scripts of one distribution."""

    def make(distribution: str) -> CaptureRoot:
        if not (SCRIPTS / distribution).exists():
            pytest.skip(f"no scripts of {distribution} (NPDUMP_KDUMP_SCRIPTS, tests/fetch-kdump-scripts)")
        if reason_without():
            pytest.skip(reason_without())
        made = CaptureRoot(tmp_path / "capture", distilled(NAME))
        INSTALL[distribution](made)
        return made

    return make


def install_debian(root: CaptureRoot) -> None:
    root.add(SCRIPTS / "debian", "")
    root.add(SCRIPTS / "debian/usr/share/kdump-tools/kdump-tools.conf", "/etc/default/kdump-tools")


def install_fedora(root: CaptureRoot) -> None:
    scripts = SCRIPTS / "fedora"
    root.add(SCRIPTS / "debian/usr/lib/dracut", "/usr/lib/dracut")
    root.add(SCRIPTS / "debian/usr/lib/dracut/modules.d/99base/dracut-lib.sh", "/lib/dracut-lib.sh")
    root.add(SCRIPTS / "debian/usr/lib/dracut/modules.d/99base/dracut-dev-lib.sh", "/lib/dracut-dev-lib.sh")
    root.add(SCRIPTS / "debian/usr/lib/dracut/dracut-util", "/usr/bin/dracut-getarg")
    root.add(SCRIPTS / "debian/sbin/vmcore-dmesg", "/sbin/vmcore-dmesg")
    root.add(scripts / "dracut/99kdumpbase/kdump.sh", "/usr/bin/kdump")
    root.add(scripts / "mkdumprd", "/usr/sbin/mkdumprd")
    for name in ("kdump-lib.sh", "kdump-lib-initramfs.sh", "kdump-logger.sh"):
        root.add(scripts / name, f"/lib/{name}")
        root.add(scripts / name, f"/usr/lib/kdump/{name}")


def install_suse(root: CaptureRoot) -> None:
    root.add(SCRIPTS / "suse/dracut/kdump-save", "/usr/bin/kdump-save")
    root.add(SCRIPTS / "suse/kdump-read-config.sh", "/usr/lib/kdump/kdump-read-config.sh")
    root.write("/etc/hostname.kdump", "machine\n")


INSTALL = {"debian": install_debian, "fedora": install_fedora, "suse": install_suse}


def the_only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def assert_log(path: Path) -> None:
    assert "Kernel panic" in path.read_text()
    assert path.stat().st_mode & 0o077 == 0 or path.name == "vmcore-dmesg.txt"


def assert_dump(made: Path, tmp_path: Path, flag: str, *, is_flat: bool = False) -> None:
    """The dump has the pages of level 31, after -R if it was a stream."""
    if is_flat:
        with made.open("rb") as stream:
            subprocess.run([*harness.npdump_command(), "-R", tmp_path / "plain"], stdin=stream, check=True)
        made = tmp_path / "plain"
    if flag == "-E":
        harness.run_ok(flag, "-d31", harness.distilled_vmcore(NAME), tmp_path / "expected")
        assert made.read_bytes() == (tmp_path / "expected").read_bytes()
    else:
        dump, wanted = open_dump(made), harness.reference(NAME).levels[31]
        assert problems(made) == []
        assert (pfn_digest(dump.kept), content_digest(dump.contents())) == (wanted["bitmap2"], wanted["content"])


@pytest.fixture
def server(tmp_path, tool):
    tool("ssh-keygen")
    if ssh_server.SERVER is None:
        pytest.skip("sshd is not installed")
    with ssh_server.serving(tmp_path / "ssh") as running:
        yield running


def know(root: CaptureRoot, server: ssh_server.Server) -> None:
    """Have ssh in a root know the server."""
    root.add(server.key, "/root/.ssh/kdump_id_rsa")
    root.write("/root/.ssh/known_hosts", server.known_hosts("127.0.0.1"), 0o600)
    root.write("/root/.ssh/config", f"Host 127.0.0.1\n Port {server.port}\n IdentityFile ~/.ssh/kdump_id_rsa\n", 0o600)


# ---- Debian, Ubuntu: kdump-tools -------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["", "gzip"])
def test_kdump_tools_saves(compression, root, tmp_path):
    capture = root("debian")
    with capture.place("/etc/default/kdump-tools").open("a") as file:
        file.write(f"KDUMP_COMPRESSION={compression}\n")
    done = capture.run("/etc/init.d/kdump-tools start")
    assert done.returncode == 0, done.stdout
    assert [call.split(" /")[0] for call in capture.calls] == ["--dump-dmesg", "-F -c -d 31"]
    crash = capture.upper / "var/crash"
    assert_log(the_only(crash, "2*/dmesg.*"))
    made = the_only(crash, "2*/dump.*")
    if compression:
        subprocess.run(["gzip", "-d", "-S", ".gz", made], check=True)
        made = made.with_suffix("")
    assert_dump(made, tmp_path, "-c", is_flat=True)
    assert "saved vmcore in" in done.stdout
    assert "reboot -f" in capture.ends


def test_kdump_tools_sends(root, server, tmp_path):
    capture = root("debian")
    know(capture, server)
    there = tmp_path / "there"
    with capture.place("/etc/default/kdump-tools").open("a") as file:
        file.write(f'SSH="{server.user}@127.0.0.1"\nKDUMP_COREDIR="{there}"\nMAKEDUMP_ARGS="-l -d 31"\n')
    done = capture.run("kdump-config savecore")
    assert done.returncode == 0, done.stdout
    assert capture.calls[1] == "-l -d 31 -F /proc/vmcore"
    assert "Kernel panic" in the_only(there, "*/dmesg.*").read_text()
    assert_dump(the_only(there, "*/dump.*"), tmp_path, "-l", is_flat=True)


def test_kdump_tools_calls_a_function(root, tmp_path):
    """As docs/capture.rst has it: its configuration is shell text, and a function goes before a program."""
    capture = root("debian")
    capture.program("npdump", capture.place("/usr/bin/makedumpfile").read_text().partition("\n")[2])
    capture.program("makedumpfile", "exit 9")
    with capture.place("/etc/default/kdump-tools").open("a") as file:
        file.write('MAKEDUMP_ARGS="-l -d 31"\nmakedumpfile() { npdump "$@"; }\n')
    done = capture.run("/etc/init.d/kdump-tools start")
    assert done.returncode == 0, done.stdout
    assert capture.calls[1] == "-l -d 31 -F /proc/vmcore"
    assert_log(the_only(capture.upper, "var/crash/2*/dmesg.*"))
    assert_dump(the_only(capture.upper, "var/crash/2*/dump.*"), tmp_path, "-l", is_flat=True)


# ---- Fedora, RHEL: kdump-utils ---------------------------------------------------------------------------------------

COLLECTOR = "-l --message-level 7 -d 31"


def test_kdump_utils_saves(root, tmp_path):
    capture = root("fedora")
    capture.write("/etc/kdump.conf", f"path /var/crash\ncore_collector makedumpfile {COLLECTOR}\n")
    done = capture.run("bash /usr/bin/kdump")
    assert done.returncode == 0, done.stdout
    threads = f" --num-threads={os.cpu_count()}" if os.cpu_count() > 1 else ""
    assert capture.calls[0].startswith(f"{COLLECTOR}{threads} /proc/vmcore /sysroot/var/crash/")
    crash = capture.upper / "sysroot/var/crash"
    assert_log(the_only(crash, "*/vmcore-dmesg.txt"))
    assert_dump(the_only(crash, "*/vmcore"), tmp_path, "-l")
    assert "saving vmcore complete" in done.stdout
    assert "systemctl reboot -f" in capture.ends


def test_kdump_utils_sends(root, server, tmp_path):
    capture = root("fedora")
    know(capture, server)
    (capture.folder / "cmdline").write_text("kdump_remote_ip=127.0.0.1\n")
    there = tmp_path / "there"
    lines = f"path {there}\nssh {server.user}@127.0.0.1\ncore_collector makedumpfile {COLLECTOR}\n"
    capture.write("/etc/kdump.conf", lines)
    done = capture.run("bash /usr/bin/kdump")
    assert done.returncode == 0, done.stdout
    assert capture.calls == [f"{COLLECTOR} -F /proc/vmcore"]
    assert "Kernel panic" in the_only(there, "*/vmcore-dmesg.txt").read_text()
    assert_dump(the_only(there, "*/vmcore.flat"), tmp_path, "-l", is_flat=True)


def test_kdump_utils_saves_to_a_raw_disk(root, tool, tmp_path):
    """What was on the disk before follows the stream, as when kdumpctl reads it back."""
    capture = root("fedora")
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(1 << 20) * 64)
    loop = subprocess.run([tool("losetup"), "--find", "--show", disk], capture_output=True, text=True, check=False)
    if loop.returncode:
        pytest.skip("no loop device to be had")
    try:
        name = loop.stdout.strip()
        capture.write("/etc/kdump.conf", f"raw {name}\ncore_collector makedumpfile {COLLECTOR}\n")
        done = capture.run("bash /usr/bin/kdump")
    finally:
        subprocess.run(["losetup", "--detach", name], check=True)
    assert done.returncode == 0, done.stdout
    assert capture.calls == [f"{COLLECTOR} -F /proc/vmcore"]
    assert_dump(disk, tmp_path, "-l", is_flat=True)


def test_kdump_utils_hears_of_a_failure(root):
    capture = root("fedora")
    (capture.folder / "vmcore").unlink()
    (capture.folder / "vmcore").write_text("no memory")
    capture.write("/etc/kdump.conf", f"path /var/crash\ncore_collector makedumpfile {COLLECTOR}\n")
    done = capture.run("bash /usr/bin/kdump")
    assert done.returncode == 1
    assert "saving vmcore failed, exitcode:1" in done.stdout
    assert not list(capture.upper.glob("sysroot/var/crash/*/vmcore"))


@pytest.mark.parametrize(
    ("collector", "is_right"), [(COLLECTOR, True), (f"{COLLECTOR} -Y", False), ("-l -d 99 --message-level 7", False)]
)
def test_mkdumprd_checks_the_parameters(collector, is_right, root):
    capture = root("fedora")
    capture.program("dracut", 'echo "dracut $*" >>/ends')
    capture.write("/etc/kdump.conf", f"path /var/crash\ncore_collector makedumpfile {collector}\n")
    done = capture.run("mkdir -p /var/crash; bash /usr/sbin/mkdumprd --force /initrd 6.1.0")
    assert capture.calls == [f"--check-params {collector} vmcore dumpfile"], done.stdout
    assert ("makedumpfile parameter check failed" in done.stdout) != is_right


# ---- openSUSE: kdump -------------------------------------------------------------------------------------------------

#: Its dracut module writes the configuration with all defaults.
KDUMP_SAVE = "bash /usr/lib/kdump/kdump-read-config.sh --print >/etc/kdump.conf && bash /usr/bin/kdump-save"


@pytest.mark.parametrize(("name", "flag"), [("compressed", "-c"), ("lzo", "-l"), ("zstd", "-z"), ("ELF", "-E")])
def test_kdump_save_saves(name, flag, root, tmp_path):
    capture = root("suse")
    capture.write("/etc/sysconfig/kdump", f"KDUMP_DUMPFORMAT={name}\nKDUMP_CPUS=1\nKDUMP_SAVEDIR=/var/crash\n")
    done = capture.run(KDUMP_SAVE)
    assert done.returncode == 0, done.stdout
    assert capture.calls == [
        "-F --message-level 8 --dump-dmesg /proc/vmcore",
        f"-F {flag} --message-level 6 -d 31 /proc/vmcore",
    ]
    made = the_only(capture.upper, "kdump/mnt/var/crash/*")
    assert_log(made / "dmesg")
    assert_dump(made / "vmcore", tmp_path, flag, is_flat=True)
    readme = (made / "README.txt").read_text()
    assert "dmesg status: saved successfully" in readme and "vmcore status: saved successfully" in readme
    assert "Kernel version: 6.1." in readme and "Crash time: 20" in readme
    assert "reboot -f" in capture.ends


@pytest.mark.skipif(os.cpu_count() < 2, reason="one CPU has no threads")
def test_kdump_save_with_threads_progress_and_debugging(root, tmp_path):
    capture = root("suse")
    capture.write(
        "/etc/sysconfig/kdump", "KDUMP_DUMPFORMAT=lzo\nKDUMP_CPUS=2\nKDUMP_SAVEDIR=/var/crash\nKDUMP_VERBOSE=15"
    )
    done = capture.run(KDUMP_SAVE)
    assert done.returncode == 0, done.stdout
    assert capture.calls[1] == "-F -l --num-threads 2 --message-level 15 -d 31 /proc/vmcore"
    assert_dump(the_only(capture.upper, "kdump/mnt/var/crash/*/vmcore"), tmp_path, "-l", is_flat=True)


def test_kdump_save_sends(root, server, tmp_path):
    capture = root("suse")
    know(capture, server)
    there = tmp_path / "there"
    url = f"ssh://{server.user}@127.0.0.1:{server.port}{there}"
    capture.write("/etc/sysconfig/kdump", f"KDUMP_SAVEDIR={url}\nKDUMP_CPUS=1\nKDUMP_NET_TIMEOUT=0\n")
    done = capture.run(KDUMP_SAVE)
    assert done.returncode == 0, done.stdout
    assert "Kernel panic" in the_only(there, "machine-*/dmesg").read_text()
    assert_dump(the_only(there, "machine-*/vmcore"), tmp_path, "-c", is_flat=True)
