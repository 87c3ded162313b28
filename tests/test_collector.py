# SPDX-License-Identifier: GPL-2.0-or-later
"""In the capture kernel: the files that a run opens, and npdump-collect, which saves whatever dies."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests import harness
from tests.readers import open_dump

if TYPE_CHECKING:
    from pathlib import Path

NAME = "x86_64-6.1"
COLLECT = harness.REPOSITORY / "collector" / "npdump-collect"

RUNS = (
    "-l -d 31 {vmcore} {out}",
    "-E -d 11 --num-threads 2 {vmcore} {out}",
    "-F -z -d 31 {vmcore}",
    "--split -p -d 31 {vmcore} {out} {out}2",
    "--message-level 31 -d 31 -L 1M {vmcore} {out}",
    "--message-level 8 -F --dump-dmesg {vmcore}",
    "-l -d 31 --deadline 60 --save-dmesg {out}.log {vmcore} {out}",
    "redact -l {vmcore} {out}",
    "-d 31 /proc/self/nothing {out}",
    "-d 31 /proc/version {out}",
)
"""What the scripts of distributions call, and what goes wrong: capture kernels do nothing else with npdump."""

OPENED = """\
import json, sys
from importlib.util import source_from_cache
opened = set()
def note(event, arguments):
    if event in ("open", "import"):
        path = arguments[0 if event == "open" else 1]
        if isinstance(path, str) and path.endswith((".py", ".pyc", ".so")):
            opened.add(source_from_cache(path) if path.endswith(".pyc") else path)
sys.addaudithook(note)
sys.modules["_hashlib"] = None  # is left out, and hashlib does without
from npdump.cli.main import main
main(sys.argv[2:])
files = sorted(opened)
with open(sys.argv[1], "w") as file:
    json.dump(files, file)
"""


@pytest.fixture(scope="module")
def files():
    """What `npdump collector files` prints."""
    return set(harness.run_ok("collector", "files").stdout.split("\n"))


@pytest.mark.parametrize("line", RUNS)
def test_every_file_that_a_run_opens_is_listed(line, files, distilled, tmp_path):
    values = {"vmcore": distilled(NAME), "out": tmp_path / "out"}
    noted = tmp_path / "opened"
    command = [
        sys.executable,
        "-I",
        "-c",
        f"import sys\nsys.path.insert(0, {str(harness.REPOSITORY)!r})\n{OPENED}",
        str(noted),
        *(word.format(**values) for word in line.split()),
    ]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    opened = {os.path.realpath(name) for name in json.loads(noted.read_text())}
    assert opened - {os.path.realpath(name) for name in files} == set()
    assert opened  # so that the hook works


def test_no_more_is_listed_than_a_capture_kernel_runs(files):
    for name in (
        "libcrypto",
        "matplotlib",
        "multiprocessing",
        "elftools",
        "npdump/fleet",
        "npdump/report",
        "npdump/cli/commands/info",
    ):
        assert not [path for path in files if name in path]


@pytest.fixture(scope="module")
def initramfs(tmp_path_factory, distilled):
    """A root with what npdump installs there, a vmcore, and nothing else."""
    if os.getuid() != 0:
        pytest.skip("chroot needs root")
    root = tmp_path_factory.mktemp("initramfs") / "root"
    (root / "proc").mkdir(parents=True)  # is there in every capture kernel
    harness.run_ok("collector", "install", root)
    shutil.copy(distilled(NAME), root / "vmcore")
    return root


def in_root(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [shutil.which("chroot"), root, *command], capture_output=True, text=True, errors="replace", env={}, check=False
    )


def test_an_installed_root_is_enough(initramfs, distilled, tmp_path):
    """A root with these files alone makes the same dump."""
    assert not list(initramfs.rglob("*.py"))
    checked = in_root(initramfs, "/usr/bin/npdump", "--check-params", "-l", "-d", "31", "vmcore", "dumpfile")
    assert checked.returncode == 0, checked.stderr
    # The order of pages is another one where VMCORE is in /proc; here, /proc is a folder like others.
    for arguments in (["-l", "-d31", "--no-vital-first", "/vmcore", "/out"], ["--dump-dmesg", "/vmcore", "/log"]):
        done = in_root(initramfs, "/usr/bin/npdump", *arguments)
        assert done.returncode == 0, done.stderr
    harness.run_ok("-l", "-d31", distilled(NAME), tmp_path / "out")
    assert (initramfs / "out").read_bytes() == (tmp_path / "out").read_bytes()
    assert (initramfs / "log").read_text() == harness.run_ok("--dump-dmesg", distilled(NAME)).stdout


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    """It is one file with others of its name: the new one is not."""
    beginning = path.read_bytes()[:20_000]
    path.unlink()
    path.write_bytes(beginning)


@pytest.mark.parametrize(
    ("damage", "pattern", "reason"),
    [
        (cut, "**/_multiarray_umath*.so", "was killed by signal|failed"),
        (remove, "**/_multiarray_umath*.so", "failed [(]exit code 1[)]"),
        (remove, "**/npdump/pipeline.pyc", "failed [(]exit code 1[)]"),
        (remove, "**/encodings/__init__.pyc", "failed [(]exit code 1[)]"),
        (remove, "usr/bin/npdump", "isn't there"),
    ],
)
def test_what_is_broken_in_an_initramfs(damage, pattern, reason, initramfs, tool, tmp_path):
    """Broken Python, NumPy or npdump: in one line it is said, and makedumpfile saves."""
    root = tmp_path / "root"
    subprocess.run(["cp", "-al", initramfs, root], check=True)
    (found,) = root.glob(pattern)
    damage(found)
    shutil.copy(tool("busybox"), root / "busybox")
    if in_root(root, "/busybox", "true").returncode:
        pytest.skip("busybox is not a static program")
    shutil.copy(COLLECT, root / "collect")
    (root / "dev").mkdir(exist_ok=True)
    (root / "dev/null").touch()
    for applet in ("sh", "mkdir", "mktemp", "rm", "mv", "date", "stat", "sync", "sleep", "cat", "cp"):
        (root / "usr/bin" / applet).symlink_to("/busybox")
    for link in ("bin", "tmp"):
        if not (root / link).exists():
            (root / link).symlink_to("usr/bin")
    # The hooks that make an initramfs ask this.
    assert in_root(root, "/usr/bin/npdump", "--check-params", "-l", "-d", "31", "vmcore", "dumpfile").returncode
    script(root / "usr/bin/makedumpfile", STANDS_IN)
    done = in_root(root, "/busybox", "sh", "/collect", "--vmcore", "/vmcore", "--to", "/crash")
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("npdump-collect: ")]
    assert [line.split(":")[1].strip() for line in said] == ["log", "log", "dump", "dump"]
    assert all(re.search(f"npdump {reason}", line) for line in said[::2])
    assert all("saved by makedumpfile" in line for line in said[1::2])
    assert len([line for line in done.stderr.splitlines() if line.startswith("npdump: ")]) <= 2
    assert "Traceback" not in done.stderr
    assert not list((root / "crash").glob("*/*.incomplete"))


def test_a_folder_that_is_not_there(npdump, tmp_path):
    result = npdump("collector", "install", tmp_path / "none")
    assert result.returncode == 1
    assert "no such folder" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [["install"], ["check", "folder"], ["nothing"], []])
def test_wrong_arguments(arguments, npdump):
    result = npdump("collector", *arguments)
    assert result.returncode == 1
    assert len([line for line in result.stderr.splitlines() if line.startswith("npdump: ")]) == 1
    assert "Traceback" not in result.stderr


def test_check_tells_what_is_there(npdump):
    lines = npdump("collector", "check").stdout.splitlines()
    assert {line.split()[0] for line in lines} >= {"core", "lzo", "zstd", "files", "makedumpfile", "reserved", "kdump"}


def script(path: Path, text: str) -> Path:
    """A shell script in the place of a program."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def collect(tmp_path, distilled):
    """Run npdump-collect; what npdump and makedumpfile are, is given as shell text. Its folder and its lines."""

    def run(
        npdump: str,
        makedumpfile: str = "exit 1",
        targets: list[str] | None = None,
        copy: str = "yes",
        stall_seconds: int = 300,
    ):
        crash = tmp_path / "crash"
        script(
            tmp_path / "npdump",
            f'npdump() {{ PYTHONPATH={harness.REPOSITORY} exec {sys.executable} -m npdump "$@"; }}\n{npdump}',
        )
        script(tmp_path / "makedumpfile", makedumpfile)
        conf = tmp_path / "conf"
        programs = f"NPDUMP={tmp_path}/npdump\nMAKEDUMPFILE={tmp_path}/makedumpfile\n"
        conf.write_text(f"{programs}COPY={copy}\nSTALL_SECONDS={stall_seconds}\n")
        to = [word for target in targets or [str(crash)] for word in ("--to", target)]
        command = ["sh", COLLECT, "--config", conf, "--vmcore", distilled(NAME), *to]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        made = {
            path.name.partition(".")[0] + path.suffix * path.name.endswith(".incomplete"): path
            for path in crash.glob("*/*")
        }
        said = [line for line in done.stdout.splitlines() if line.startswith("npdump-collect: ")]
        return done.returncode, made, said

    return run


NPDUMP = 'npdump "$@"'
DIES = 'case $1 in --dump-dmesg) npdump "$@" ;; *) kill -9 $$ ;; esac'
#: What makedumpfile would do, for where it isn't installed.
STANDS_IN = 'for last; do :; done; case $1 in --dump-dmesg) echo log >"$last" ;; *) echo a dump >"$last" ;; esac'


def test_collect_saves_log_and_dump(collect):
    code, made, said = collect(NPDUMP)
    assert code == 0
    assert set(made) == {"dmesg", "dump"}
    assert "Kernel panic" in made["dmesg"].read_text()
    assert open_dump(made["dump"]).kept.any()
    assert [line.split(":")[1].strip() for line in said] == ["log", "dump"]
    assert all("saved by npdump" in line for line in said)


def test_makedumpfile_takes_over(collect):
    code, made, said = collect(DIES, STANDS_IN)
    assert code == 0
    assert made["dump"].read_text() == "a dump\n"
    assert [text for text in said if "npdump was killed by signal 9" in text]


def test_makedumpfile_reads_the_log_if_npdump_is_not_there(collect):
    code, made, _ = collect("exit 127", STANDS_IN)
    assert code == 0
    assert made["dmesg"].read_text() == "log\n"


def test_all_of_memory_is_copied_in_the_end(collect, distilled):
    code, made, said = collect(DIES)
    assert code == 0
    assert made["dump"].stat().st_size == distilled(NAME).stat().st_size
    assert "saved by cp" in said[-1]


def test_the_largest_part_stays(collect):
    parts = 'for last; do :; done; case $1 in --dump-dmesg) exit 1 ;; *) echo {} >"$last"; exit 1 ;; esac'
    code, made, said = collect(parts.format("a long part"), parts.format("short"), copy="no")
    assert code == 1
    assert set(made) == {"dump.incomplete"}
    assert made["dump.incomplete"].read_text() == "a long part\n"
    assert [line for line in said if "log: not saved" in line]


def test_the_next_target_is_tried(collect, tmp_path, npdump):
    (tmp_path / "file").write_text("no folder")
    got = tmp_path / "got"
    got.mkdir()
    code, _, said = collect(NPDUMP, targets=[f"{tmp_path}/file/crash", "relative", f'pipe:cat >{got}/"$NAME"'])
    assert code == 0
    names = {path.name.partition(".")[0]: path for path in got.iterdir()}
    assert "Kernel panic" in names["dmesg"].read_text()
    harness.run_ok("-E", names["dump"], tmp_path / "core")  # npdump reads a stream as it came
    assert len([line for line in said if "not all was saved there" in line]) == 2


def test_a_stream_whose_sender_dies_is_not_whole(collect, tmp_path):
    got = tmp_path / "got"
    got.mkdir()
    code, _, said = collect(DIES, targets=[f'pipe:cat >{got}/"$NAME"'], copy="no")
    assert code == 1
    assert [line for line in said if "npdump was killed by signal 9" in line]


@pytest.mark.parametrize("number", range(int(os.environ.get("NPDUMP_DEATHS", "1"))))
def test_death_at_a_random_moment(number, collect):
    """Whatever dies when, there are a log and a dump. NPDUMP_DEATHS says how often it is tried."""
    seconds = random.Random(number).uniform(0, 1.2)
    dies = f'npdump "$@" & sleep {seconds:.3f}; kill -9 $! 2>/dev/null; wait $!'
    code, made, _ = collect(dies, 'exec makedumpfile "$@"' if shutil.which("makedumpfile") else STANDS_IN)
    assert code == 0
    assert set(made) == {"dmesg", "dump"}
    assert made["dmesg"].stat().st_size


@pytest.fixture(scope="module")
def as_makedumpfile(tmp_path_factory):
    """A folder for PATH in which makedumpfile is npdump, and how a script would see it."""
    folder = tmp_path_factory.mktemp("bin")
    script(folder / "makedumpfile", f'PYTHONPATH={harness.REPOSITORY} exec {sys.executable} -m npdump "$@"')
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}


def shell(text: str, environment: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", text], env=environment, cwd=cwd, capture_output=True, text=True, errors="replace", check=False
    )


@pytest.mark.parametrize(
    "call",
    [
        # kdump-tools 1.8, kdump-config savecore
        "makedumpfile --dump-dmesg $vmcore made",
        "makedumpfile -F -c -d 31 $vmcore | cat > made",
        "makedumpfile -l -d 31 -F $vmcore | dd of=made",
        # kdump-utils 1.0, mkdumprd and kdump.sh: the check, a file, ssh
        "makedumpfile --check-params -l --message-level 7 -d 31 vmcore dumpfile && echo made > made",
        "makedumpfile --check-params -F -l --message-level 7 -d 31 vmcore && echo made > made",
        "makedumpfile -l --message-level 7 -d 31 --num-threads=2 $vmcore ./made",
        "makedumpfile -l --message-level 7 -d 31 -F $vmcore | dd bs=512 of=made",
        # kdump 2.0 of openSUSE, kdump-save, which reads a fifo
        "mkfifo fifo; makedumpfile -F -z --message-level 6 -d 31 $vmcore > fifo & cat fifo > made; wait $!",
        "makedumpfile -F -E --message-level 6 -d 31 $vmcore > made",
        "makedumpfile -F -l --num-threads 2 --message-level 15 -d 31 $vmcore > made",
    ],
)
def test_the_calls_of_distributions(call, as_makedumpfile, distilled, tmp_path):
    done = shell(f"set -o pipefail; {call}", as_makedumpfile | {"vmcore": str(distilled(NAME))}, tmp_path)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "made"
    assert made.stat().st_size
    if "--dump-dmesg" in call:
        assert "Kernel panic" in made.read_text()
    elif "--check-params" not in call:
        head = made.read_bytes()[:16]
        assert head.startswith(b"makedumpfile\0" if "-F" in call else b"KDUMP   ")


def test_facts_of_the_log_are_read_from_the_messages(as_makedumpfile, distilled, tmp_path):
    """openSUSE's kdump takes release and time of the crash from lines with a key, an equals sign and a value."""
    script_of_lines = (
        "makedumpfile -F --message-level 8 --dump-dmesg $vmcore 2>said >log\n"
        "while IFS=' =' read key value; do case $key in OSRELEASE|CRASHTIME) echo $key $value;; esac; done <said"
    )
    done = shell(script_of_lines, as_makedumpfile | {"vmcore": str(distilled(NAME))}, tmp_path)
    said = dict(line.split() for line in done.stdout.splitlines())
    assert said["OSRELEASE"].startswith("6.1.")
    assert int(said["CRASHTIME"]) > 1_600_000_000
    assert "Kernel panic" in (tmp_path / "log").read_text()


def test_npdump_by_the_name_of_makedumpfile(as_makedumpfile, distilled, tmp_path):
    """collector/makedumpfile: what is wanted on a file, is made by the real one if npdump dies; a stream isn't."""
    by_name = harness.REPOSITORY / "collector" / "makedumpfile"
    folder = tmp_path / "bin"
    folder.mkdir()
    script(folder / "npdump", "kill -9 $$")
    script(folder / "makedumpfile", 'echo "real $*"')
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    assert shell(f"{by_name} -l -d 31 a b", environment, tmp_path).stdout == "real -f -l -d 31 a b\n"
    for stream in ("-F -l a", "-lF a", "--check-params -l a b"):
        done = shell(f"{by_name} {stream}", environment, tmp_path)
        assert done.stdout == ""
        assert done.returncode == 137


def test_what_does_nothing_is_ended(collect, tmp_path):
    """In a folder and in a stream: what waits for something that never comes is given up."""
    hangs = 'case $1 in --dump-dmesg) npdump "$@" ;; *) exec sleep 1000 ;; esac'
    got = tmp_path / "got"
    got.mkdir()
    code, made, said = collect(hangs, STANDS_IN, stall_seconds=1)
    assert code == 0
    assert made["dump"].read_text() == "a dump\n"
    assert [line for line in said if "dump: npdump was ended: it did nothing for 1 s" in line]
    code, _, said = collect(hangs, "exit 1", targets=[f'pipe:cat >{got}/"$NAME"'], copy="no", stall_seconds=1)
    assert code == 1
    assert [line for line in said if "dump: npdump was ended: it did nothing for 1 s" in line]


def test_no_sender_is_blamed_for_a_receiver(collect):
    code, _, said = collect(NPDUMP, STANDS_IN, targets=["pipe:exit 7"])
    assert code == 1
    assert [line.partition(" after")[0] for line in said[:-1]] == [
        "npdump-collect: log: the receiver failed (exit code 7)"
    ]


def test_a_configuration_with_a_mistake_is_passed_over(distilled, tmp_path):
    (tmp_path / "conf").write_text("TARGETS='/tmp\n")
    command = ["sh", COLLECT, "--config", "conf", "--vmcore", distilled(NAME), "--to", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "conf: can't be read, or is no shell text" in done.stdout
    assert "target nowhere: not a folder" in done.stdout


def test_nothing_to_save(tmp_path):
    done = subprocess.run(["sh", COLLECT, "--vmcore", tmp_path / "none"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no memory of a crashed kernel" in done.stdout


def test_a_core_that_does_not_load(tmp_path, distilled, npdump):
    """--check-params says it; a run does without it if it can, and makes no file if it can't."""
    shutil.copytree(harness.REPOSITORY / "npdump", tmp_path / "npdump", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (tmp_path / "npdump").glob("_core*.so"):
        path.unlink()
    (tmp_path / "npdump/_core.abi3.so").write_text("no library")
    environment = {"PYTHONPATH": str(tmp_path)}
    checked = npdump("--check-params", "-l", "-d31", "a", "b", env=environment, cwd=tmp_path)
    assert checked.returncode == 1
    assert "core is there and can't be used" in checked.stderr
    environment |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{tmp_path}/hidden"}
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/sitecustomize.py").write_text("import sys\nsys.modules['lzo'] = None\n")
    ran = npdump("-l", "-d31", distilled(NAME), tmp_path / "out", env=environment, cwd=tmp_path)
    assert ran.returncode == 1
    assert not (tmp_path / "out").exists()
