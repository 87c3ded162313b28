# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line as a whole: letters, exit codes, report, and what must not change the result."""

import json
import os
import re
import subprocess
from functools import cache

import pytest

from tests import harness, synthetic
from tests.builders import oracle
from tests.builders.kernels import KERNELS
from tests.builders.vmcore import Description, build
from tests.readers import open_dump

LABELS = {
    "cache": "Non-private cache pages",
    "cache_private": "Private cache pages    ",
    "user": "User process data pages",
    "free": "Free pages             ",
    "hwpoison": "Hwpoison pages         ",
    "offline": "Offline pages          ",
}
MIB = 1 << 20


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A vmcore with every kind of page, of two chunks."""
    return build(tmp_path_factory.mktemp("cli") / "vmcore", synthetic.CASES["kernel-7.2"].describe())


@pytest.fixture(scope="module")
def pages_unlike(tmp_path_factory):
    """A vmcore of eight batches, no page of which is like another."""
    kernel = KERNELS["6.12"]
    description = Description(kernel=kernel, ram=[(MIB, 16 * MIB)], kernel_paddr=2 * MIB, fill=1)
    return build(tmp_path_factory.mktemp("cli") / "vmcore", description).path


@pytest.fixture(scope="module")
def dump_of(machine, tmp_path_factory):
    """Path of the dump that some options make of the machine; those that were made before are kept."""

    @cache
    def make(*options):
        path = tmp_path_factory.mktemp("dumps") / "dump"
        harness.run_ok(*options, machine.path, path)
        return path

    return make


@pytest.mark.parametrize("arguments", [["-ld31"], ["-l", "-d", "31", "--num-threads", "4"]])
def test_check_params_accepts(arguments, npdump, tmp_path):
    """No file is looked at: they don't even exist."""
    result = npdump("--check-params", *arguments, "VMCORE", "DUMP", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["-d", "32", "VMCORE", "DUMP"], ["-E", "-l", "VMCORE", "DUMP"]])
def test_usage_errors_are_1(arguments, npdump, tmp_path):
    """2 would mean that vmlinux and vmcore don't fit. The rules themselves are in test_options."""
    result = npdump("--check-params", *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert len([line for line in result.stderr.splitlines() if line != "npdump Failed."]) == 1, result.stderr


def test_what_npdump_cannot_is_refused_by_name(npdump, machine, tmp_path):
    """All such options are in test_options."""
    output = tmp_path / "dump"
    result = npdump("--eppic", "file", machine.path, output)
    assert result.returncode == 1
    assert "--eppic" in result.stderr
    assert "not supported" in result.stderr
    assert not output.exists()


def test_combined_letters_do_the_same(dump_of):
    assert dump_of("-l", "-d", "31").read_bytes() == dump_of("-ld31").read_bytes()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["-h"], ["-v"]])
def test_answers_without_numpy(arguments, npdump, tmp_path):
    (tmp_path / "numpy.py").write_text("raise SystemExit('numpy was imported')\n")
    path = os.pathsep.join([str(tmp_path), str(harness.REPOSITORY)])
    result = npdump(*arguments, env={"PYTHONPATH": path})
    assert result.returncode == 0, result.stdout + result.stderr
    if arguments[0] in ("--version", "-v"):
        assert all(word in result.stdout for word in ("npdump", "zlib", "lzo", "snappy", "zstd"))
    elif arguments[0] in ("--help", "-h"):
        assert all(flag in result.stdout for flag in ("-d", "-E", "--num-threads", "--show-stats", "--message-level"))


def _number(text, label):
    found = re.search(rf"^ *{re.escape(label)} *: (0x[0-9a-f]{{16}})$", text, re.MULTILINE)
    assert found, f"{label!r} is not in\n{text}"
    return int(found[1], 16)


@pytest.mark.parametrize("level", [0, 16, 31])
@pytest.mark.parametrize("dry", [False, True])
def test_report(level, dry, npdump, machine, tmp_path):
    options = ["--dry-run"] if dry else []
    result = npdump("-l", "-d", str(level), "--show-stats", *options, machine.path, tmp_path / "dump")
    assert result.returncode == 0, result.stderr
    text = result.stdout
    classes = oracle.of(machine).classify(level)
    for name, label in LABELS.items():
        wanted = int((classes == oracle.CLASSES.index(name)).sum())
        assert f"    {label} : 0x{wanted:016x}\n" in text
    n_zero = 0
    if level & 1:
        kept = oracle.of(machine).kept(level).nonzero()[0].tolist()
        n_zero = sum(not any(machine.page(pfn)) for pfn in kept)
    assert f"    Pages filled with zero  : 0x{n_zero:016x}\n" in text
    n_ram, n_excluded = int(machine.bitmap1.sum()), int((classes != oracle.KEPT).sum()) + n_zero
    assert f"Original pages  : 0x{n_ram:016x}\n" in text
    assert f"  Excluded pages   : 0x{n_excluded:016x}\n" in text
    assert f"  Remaining pages  : 0x{n_ram - n_excluded:016x}\n" in text
    assert f"  (The number of pages is reduced to {(n_ram - n_excluded) * 100 // n_ram}%.)\n" in text
    assert f"Memory Hole     : 0x{machine.max_mapnr - n_ram:016x}\n" in text
    assert "--------------------------------------------------\n" in text
    assert f"Total pages     : 0x{machine.max_mapnr:016x}\n" in text
    n_bytes = int(re.search(r"^Write bytes     : (\d+)$", text, re.MULTILINE)[1])
    if dry:
        assert not (tmp_path / "dump").exists()
        assert n_bytes > 4096
    else:
        assert 0 < n_bytes <= (tmp_path / "dump").stat().st_size + 4096


def test_json_says_what_the_text_says(npdump, machine, tmp_path):
    text = npdump("-l", "-d", "31", "--show-stats", machine.path, tmp_path / "a").stdout
    result = npdump("-l", "-d", "31", "--show-stats", "--json", "--message-level", "0", machine.path, tmp_path / "b")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    numbers = set()

    def collect(value):
        if isinstance(value, dict):
            for item in value.values():
                collect(item)
        elif isinstance(value, int):
            numbers.add(value)

    collect(report)
    labels = [label.strip() for label in LABELS.values()]
    for label in ["Original pages", "Excluded pages", "Remaining pages", "Memory Hole", "Total pages", *labels]:
        assert _number(text, label) in numbers, label


# ISA-L, the default of -c, doesn't always give the same bytes for a page (npdump/codecs/zlib.py).
@pytest.mark.parametrize("codec", [[], ["-c", "--zlib-engine", "zlib"], ["-l"], ["-p"], ["-z"]])
def test_same_bytes_whatever_the_number_of_workers(codec, npdump, pages_unlike, tmp_path):
    files = []
    for n_workers in (1, 3):
        path = tmp_path / f"dump{n_workers}"
        result = npdump(*codec, "-d", "1", "--num-threads", str(n_workers), pages_unlike, path)
        assert result.returncode == 0, result.stderr
        files.append(path.read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("options", [["--non-mmap"], ["--cyclic-buffer", "1"], ["-b", "0"], ["-b", "10"]])
@pytest.mark.parametrize("level", ["0", "31"])
def test_how_it_works_does_not_change_the_pages(options, level, dump_of):
    plain, changed = dump_of("-l", "-d", level), dump_of("-l", "-d", level, *options)
    if options == ["--non-mmap"]:
        assert plain.read_bytes() == changed.read_bytes()
        return
    plain, changed = open_dump(plain), open_dump(changed)
    assert (plain.bitmap2 == changed.bitmap2).all()
    differing = [pfn for pfn in plain.kept.tolist() if plain.stored(pfn) != changed.stored(pfn)]
    assert [pfn for pfn in differing if plain.page(pfn) != changed.page(pfn)] == []


def test_message_levels(npdump, machine, tmp_path):
    said = {}
    for level in (0, 1, 2, 4, 16, 31):
        result = npdump("-f", "-l", "-d31", "--message-level", str(level), machine.path, tmp_path / "dump")
        assert result.returncode == 0
        said[level] = result
    assert said[0].stdout == said[0].stderr == ""
    assert "%]" in said[1].stdout + said[1].stderr
    assert "Completed." in said[2].stdout
    assert "Original pages" in said[16].stdout
    assert "Original pages" not in said[2].stdout
    assert said[4].stdout == said[4].stderr == ""
    silent = npdump("--message-level", "0", tmp_path / "missing", tmp_path / "other")
    assert silent.returncode == 1
    assert silent.stdout == silent.stderr == ""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_a_reader_that_goes_away_is_no_error_message(arguments):
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [*harness.npdump_command(), *arguments],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(harness.REPOSITORY)},
    )
    os.close(write)
    assert result.stderr == ""
