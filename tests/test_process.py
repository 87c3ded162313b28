# SPDX-License-Identifier: GPL-2.0-or-later
"""The process: streams that are closed or full, signals, libraries that are missing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests import harness
from tests.readers import kdump as kdump_reader

if TYPE_CHECKING:
    from pathlib import Path

NAME = "x86_64-6.1"
STATUS_INCOMPLETE = 0x8  # DUMP_DH_COMPRESSED_INCOMPLETE in makedumpfile's diskdump_mod.h


def shell(line: str, *arguments: str | os.PathLike[str], **options) -> subprocess.CompletedProcess[str]:
    """Run npdump by a line of the shell, in which "$@" is npdump with its arguments."""
    command = ["/bin/sh", "-c", line, "sh", *harness.npdump_command(), *map(os.fspath, arguments)]
    environment = os.environ | {"PYTHONPATH": str(harness.REPOSITORY)} | options.pop("env", {})
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False, **options)


def assert_one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 1, result.stderr
    lines = result.stderr.splitlines()
    errors = [line for line in lines if line.startswith("npdump: ") and "warning" not in line]
    assert len(errors) == 1 and "Traceback" not in result.stderr, result.stderr
    assert all(word in errors[0] for word in words), errors[0]


ANSWERS = (
    ["--help"],
    ["--version"],
    ["info", "{}"],
    ["info", "--json", "{}"],
    ["explain", "{}", "0x100"],
    ["--mem-usage", "{}"],
    ["--vtop", "0xffffffff81000000", "{}"],
    ["--dump-dmesg", "{}"],
    ["completion", "bash"],
    ["--dry-run", "--show-stats", "--json", "-d31", "{}"],
    ["--dry-run", "--show-stats", "--message-level", "4", "-d31", "{}"],
)


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
@pytest.mark.parametrize("arguments", ANSWERS, ids=" ".join)
def test_an_answer_that_is_lost_is_an_error(arguments, redirection, distilled):
    arguments = [argument.format(distilled(NAME)) for argument in arguments]
    if arguments[0] == "--vtop":
        arguments[1] = f"{symbol(distilled(NAME), 'SYMBOL(_stext)'):#x}"
    assert_one_line(shell(f'exec "$@" {redirection}', *arguments), "standard output", "lost")


def symbol(path: Path, key: str) -> int:
    text = path.read_bytes()[: 1 << 20]
    at = text.index(f"{key}=".encode()) + len(key) + 1
    return int(text[at : text.index(b"\n", at)], 16)


@pytest.mark.parametrize("arguments", [["-d31", "-", "{}"], ["info", "-"], ["-R", "{}"]])
def test_a_closed_standard_input(arguments, tmp_path):
    out = tmp_path / "out"
    assert_one_line(shell('exec "$@" <&-', *[argument.format(out) for argument in arguments]), "closed")
    assert not out.exists()


def hiding(tmp_path: Path, *modules: str) -> dict[str, str]:
    """An environment in which modules are not installed."""
    code = f"import sys\nfor name in {modules!r}: sys.modules[name] = None\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{tmp_path}{os.pathsep}{harness.REPOSITORY}"}


@pytest.mark.parametrize("arguments", [["-d31", "{}", "{}"], ["info", "{}"], ["--check-params", "-d31", "{}", "{}"]])
def test_numpy_is_missing(arguments, npdump, tmp_path):
    arguments = [argument.format(tmp_path / "file") for argument in arguments]
    if "--check-params" in arguments:
        result = npdump(*arguments, command=[sys.executable, "-S", "-m", "npdump"])
    else:
        result = npdump(*arguments, env=hiding(tmp_path, "numpy"))
    assert_one_line(result, "numpy", "apt-get", "pip install")


@pytest.mark.parametrize(
    ("flags", "modules", "package"),
    [
        (["-z"], ["zstandard", "compression.zstd"], "python3-zstandard"),
        (["-p"], ["cramjam"], "cramjam"),
        (["-F", "--lz4"], ["lz4", "lz4.frame"], "python3-lz4"),
    ],
)
def test_a_library_is_missing(flags, modules, package, npdump, distilled, tmp_path):
    """It's said before anything is made: no file, no byte of a stream."""
    # The compiled core calls the system's libraries itself.
    environment, out = hiding(tmp_path, *modules) | {"NPDUMP_CORE": "0"}, tmp_path / "out"
    files = [distilled(NAME), *([] if "-F" in flags else [out])]
    for check in (["--check-params"], []):
        result = npdump(*check, *flags, "-d31", *files, env=environment)
        assert_one_line(result, package)
        assert "npdump[" not in result.stderr
        assert result.stdout.replace("\nnpdump Failed.\n", "") == ""
        assert not out.exists()


def test_no_directory_for_temporary_files(npdump, distilled, tmp_path):
    code = (
        "import errno, tempfile\n"
        "def none(): raise FileNotFoundError(errno.ENOENT, 'No usable temporary directory')\n"
        "tempfile.gettempdir = none\n"
    )
    (tmp_path / "sitecustomize.py").write_text(code)
    packed = tmp_path / "vmcore.gz"
    with packed.open("wb") as file:
        subprocess.run(["gzip", "-1c", distilled(NAME)], stdout=file, check=True)
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{harness.REPOSITORY}"}
    assert_one_line(npdump("info", packed, env=environment), "--work-dir")


def start(*arguments: str | os.PathLike[str], **options) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(harness.REPOSITORY)}
    return subprocess.Popen(
        [*harness.npdump_command(), *map(os.fspath, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options,
    )  # fmt: skip


SIGNALLING = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("module", ["npdump.cli.options", "numpy", "numpy.linalg", "npdump.dump", "npdump.cli.outputs"])
def test_a_signal_while_npdump_starts(number, module, npdump, distilled, tmp_path):
    """In the middle of its imports."""
    (tmp_path / "sitecustomize.py").write_text(SIGNALLING.format(module=module, number=int(number)))
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{harness.REPOSITORY}"}
    result = npdump("-d31", distilled(NAME), tmp_path / "out", env=environment)
    assert result.returncode == 128 + number
    expected = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert result.stderr == f"npdump: {expected}\n"
    assert not (tmp_path / "out").exists()


def test_a_signal_before_all_else(npdump, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SIGNALLING.format(module="npdump.cli.main", number=2))
    result = npdump("--help", env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{harness.REPOSITORY}"})
    assert (result.returncode, result.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_a_dump_is_written(number, distilled, tmp_path):
    """What is there says that it's incomplete, and the line says so."""
    out = tmp_path / "out"
    process = start("-c", "--zlib-engine", "zlib", "-d0", distilled(NAME), out)
    while process.poll() is None and (not out.exists() or out.stat().st_blocks * 512 < 1 << 20):
        time.sleep(0.002)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    said = [line for line in err.splitlines() if line.startswith("npdump: ")]
    how = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert said == [f"npdump: {how}: the output is incomplete, and marked so"]
    assert kdump_reader.KdumpFile(out).status & STATUS_INCOMPLETE


def test_a_signal_that_is_ignored_stays_ignored(distilled, tmp_path):
    """As nohup has it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = start("info", pipe, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    time.sleep(0.5)
    process.send_signal(signal.SIGHUP)
    with pipe.open("wb") as file:
        file.write(distilled(NAME).read_bytes()[: 1 << 16])
    _, err = process.communicate(timeout=60)
    assert process.returncode in (0, 1), err
