# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs that npdump's output is for: they open it and read the right bytes."""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests import harness, peers, synthetic
from tests.builders.vmcore import build
from tests.readers import ElfDump, open_dump
from tests.readers.compare import difference

FORMATS = {"zlib": "-c", "lzo": "-l", "snappy": "-p", "zstd": "-z", "elf": "-E"}
WITH_LIBKDUMPFILE = """
import hashlib, json, sys
import kdumpfile
dump = kdumpfile.kdumpfile(sys.argv[1])
dump.attr["addrxlat.ostype"] = "linux"
names = "file.format", "linux.uts.release", "max_pfn", "arch.name", "arch.page_size"
facts = {name: dump.attr[name] for name in names}
facts["OSRELEASE"] = dump.attr["linux.vmcoreinfo.lines.OSRELEASE"]
facts["pages"] = [
    hashlib.sha256(dump.read(kdumpfile.KDUMP_MACHPHYSADDR, int(pfn) * 4096, 4096)).hexdigest() for pfn in sys.argv[2:]
]
facts["names"] = bytes(dump.read(kdumpfile.KDUMP_KVADDR, dump.attr["linux.vmcoreinfo.SYMBOL.init_uts_ns"], 5)).decode()
print(json.dumps(facts))
"""
WITH_DRGN = """
import hashlib, json, sys
import drgn
program = drgn.Program()
program.set_core_dump(sys.argv[1])
facts = {"release": program["UTS_RELEASE"].string_().decode(), "vmcoreinfo": program["VMCOREINFO"].string_().decode()}
facts["pages"] = [
    hashlib.sha256(program.read(int(pfn) * 4096, 4096, physical=True)).hexdigest() for pfn in sys.argv[2:]
]
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A small vmcore whose every byte is known."""
    return build(tmp_path_factory.mktemp("peers") / "vmcore", synthetic.CASES["kernel-6.1"].describe())


@pytest.fixture(scope="module")
def dumps(machine):
    """dumps(format): the filtered dump in that format."""

    def make(name):
        path = machine.path.with_name(f"dump.{name}")
        if not path.exists():
            harness.run_ok(FORMATS[name], "-d", "31", machine.path, path)
        return path

    return make


def make_form(form, vmcore, directory):
    """The real vmcore at level 31 in some form, as one file or several."""
    directory.mkdir(exist_ok=True)
    path = directory / "dump"
    if form == "split":
        parts = [directory / f"part{i}" for i in range(3)]
        harness.run_ok("--split", "-l", "-d", "31", vmcore, *parts)
        return parts[::-1]
    if form.startswith("flattened"):
        with open(path, "wb") as stdout:
            harness.run_ok("-F", "-E" if form.endswith("elf") else "-l", "-d", "31", vmcore, stdout=stdout)
    elif form == "elf of kdump":
        harness.run_ok("-l", "-d", "31", vmcore, directory / "first")
        harness.run_ok("-E", "-d", "31", directory / "first", path)
    else:
        harness.run_ok(FORMATS[form], "-d", "31", vmcore, path)
    return [path]


@pytest.fixture(scope="module")
def some_pages(machine):
    """some_pages(path): a few kept pages with content, and their digests out of the model."""
    written = {pfn for pfn in machine.bitmap1.nonzero()[0].tolist() if any(machine.page(pfn))}

    def choose(path):
        pfns = [pfn for pfn in open_dump(path).kept.tolist() if pfn in written]
        pfns = pfns[:: len(pfns) // 25]
        return pfns, [hashlib.sha256(machine.page(pfn)).hexdigest() for pfn in pfns]

    return choose


def ask(python, script, path, pfns, reason):
    """Run a script under a Python that has the peer's module; its answer is JSON."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    argv = [python, "-c", script, os.fspath(path), *map(str, pfns)]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, env=environment)
    if "ModuleNotFoundError" in result.stderr:
        pytest.skip(reason)
    if "not compiled with" in result.stderr or "built without" in result.stderr:
        pytest.skip(result.stderr.strip().splitlines()[-1])
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", FORMATS)
def test_libkdumpfile(name, dumps, machine, some_pages):
    path = dumps(name)
    pfns, digests = some_pages(path)
    python = sys.executable if importlib.util.find_spec("kdumpfile") else "/usr/bin/python3"
    if not Path(python).exists():
        pytest.skip(f"no {python}, which would have libkdumpfile's module")
    facts = ask(python, WITH_LIBKDUMPFILE, path, pfns, "python3-libkdumpfile is not installed")
    assert facts["file.format"] == ("elf" if name == "elf" else "diskdump")
    assert facts["linux.uts.release"] == facts["OSRELEASE"] == machine.keys["OSRELEASE"]
    assert facts["arch.name"] == "x86_64"
    assert facts["arch.page_size"] == 4096
    assert facts["max_pfn"] == machine.max_mapnr
    assert facts["names"] == "Linux"
    assert facts["pages"] == digests


@pytest.mark.parametrize("name", FORMATS)
def test_drgn(name, dumps, machine, some_pages):
    path = dumps(name)
    pfns, digests = some_pages(path)
    facts = ask(sys.executable, WITH_DRGN, path, pfns, "drgn is not installed")
    assert facts["release"] == machine.keys["OSRELEASE"]
    assert facts["vmcoreinfo"].encode() == machine.vmcoreinfo
    assert facts["pages"] == digests


@pytest.mark.parametrize("form", ["flattened", "flattened elf"])
def test_drgn_reads_flattened(form, machine, some_pages, tmp_path):
    [path] = make_form(form, machine.path, tmp_path)
    pfns, digests = some_pages(make_form("lzo", machine.path, tmp_path / "whole")[0])
    facts = ask(sys.executable, WITH_DRGN, path, pfns, "drgn is not installed")
    assert facts["release"] == machine.keys["OSRELEASE"]
    assert facts["pages"] == digests


@pytest.mark.parametrize("form", ["elf", "elf of kdump"])
def test_gdb_reads_elf(form, machine, some_pages, tool, tmp_path):
    gdb = tool("gdb")
    [path] = make_form(form, machine.path, tmp_path)
    pfns, _ = some_pages(path)
    offset = next(load.vaddr - load.start for load in machine.loads[1:])
    commands = [f"core-file {path}", "info registers rip", *(f"x/2gx {pfn * 4096 + offset:#x}" for pfn in pfns)]
    argv = [gdb, "-batch", "-nx", *(part for command in commands for part in ("-ex", command))]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True).stdout
    assert re.search(r"^rip +0xffffffff81000000", said, re.MULTILINE)
    words = dict(re.findall(r"^(0x[0-9a-f]+):\t(0x[0-9a-f]+\t0x[0-9a-f]+)$", said, re.MULTILINE))
    for pfn in pfns:
        page = machine.page(pfn)
        first, second = (int.from_bytes(page[at : at + 8], "little") for at in (0, 8))
        assert words[f"{pfn * 4096 + offset:#x}"] == f"0x{first:016x}\t0x{second:016x}"


@pytest.mark.parametrize("name", FORMATS)
def test_makedumpfile_filters_it_again(name, npdump, dumps, machine, tmp_path):
    """What makedumpfile makes of npdump's level 1 at level 31 is npdump's level 31."""
    program = peers.makedumpfile_for("6.1")
    assert npdump(FORMATS[name], "-d", "1", machine.path, tmp_path / "first").returncode == 0
    peers.run_makedumpfile(program, "-l", "-d", "31", tmp_path / "first", tmp_path / "second")
    again, wanted = open_dump(tmp_path / "second"), open_dump(dumps("lzo"))
    sure = ~machine.only_begun
    if name == "elf":
        # Zero pages have no bytes in an ELF dump, so that they count as excluded.
        zero = [pfn for pfn in wanted.kept.tolist() if not any(machine.page(pfn))]
        sure[zero] = False
    assert difference(again.bitmap2 & sure, wanted.bitmap2 & sure) == ""
    pages = [pfn for pfn in again.kept.tolist() if sure[pfn]]
    assert [pfn for pfn in pages if again.page(pfn) != machine.page(pfn)] == []


@pytest.fixture(scope="module")
def real():
    """A whole real vmcore, and its vmlinux."""
    name = next((name for name in harness.corpus_names() if "-6.1-" in name), None)
    if name is None:
        pytest.skip("no whole vmcore of Linux 6.1 in a directory of further vmcores (NPDUMP_CORPUS)")
    path = harness.corpus_vmcore(name)
    release = re.search(rb"OSRELEASE=(\S+)", ElfDump(path).vmcoreinfo)[1].decode()
    return path, peers.vmlinux_of(release), release


@pytest.fixture(scope="module")
def crash_says(real, tool, tmp_path_factory):
    """What crash says of the real vmcore at level 31 in some form: facts, log, backtrace, tasks and some pages' bytes.

    Returns that, and the numbers of the pages. It is asked once for each form, since it takes seconds to begin.
    """
    vmcore, vmlinux, _ = real
    program = tool("crash")
    [whole] = make_form("lzo", vmcore, tmp_path_factory.mktemp("crash"))
    dump = open_dump(whole)
    pfns = [pfn for pfn in dump.kept[:: len(dump.kept) // 20].tolist() if any(dump.page(pfn))]
    commands = ["sys", "log", "bt", "ps", *(f"rd -p {pfn * 4096:x} 2" for pfn in pfns), "quit"]
    script = whole.with_name("commands")
    script.write_text("\n".join(commands) + "\n")

    @cache
    def says(form):
        paths = make_form(form, vmcore, tmp_path_factory.mktemp("form"))
        argv = [program, "-s", "-i", script, vmlinux, *paths]
        result = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=300, check=False
        )
        assert result.returncode == 0, result.stdout[-1000:] + result.stderr
        return result.stdout, pfns

    return says


@pytest.mark.parametrize("form", ["lzo", "elf", "elf of kdump", "split", "flattened"])
def test_crash(form, real, crash_says):
    """crash opens it, has the log, the panicked task's backtrace and the tasks, and reads the right bytes."""
    vmcore, _, release = real
    said, pfns = crash_says(form)
    assert f"RELEASE: {release}" in said
    assert "Kernel panic - not syncing" in said
    assert re.search(r"^ *#\d+ \[[0-9a-f]+\] panic at ", said, re.MULTILINE)
    assert "[swapper/0]" in said
    assert len(pfns) > 5
    assert wrongly_read(said, pfns, vmcore) == []


def wrongly_read(said, pfns, vmcore):
    """Those pages of which crash didn't print the two first words."""
    source = ElfDump(vmcore)
    words = {pfn: [int.from_bytes(source.read(pfn * 4096 + at, 8), "little") for at in (0, 8)] for pfn in pfns}
    return [
        pfn
        for pfn, (first, second) in words.items()
        if not re.search(rf"^ *{pfn * 4096:x}: +{first:016x} {second:016x} ", said, re.MULTILINE)
    ]


def test_crash_prints_the_same_log(npdump, real, crash_says):
    """This crash prints no callers, and indents the second line of a message by what it prints before the first."""
    vmcore, _, _ = real
    said, _ = crash_says("lzo")
    log = said[said.index("[    0.000000]") :]
    theirs = [line.lstrip() for line in log[: re.search(r"^PID: ", log, re.MULTILINE).start()].splitlines()]
    ours = re.sub(r"(?m)^(\[ *\d+\.\d{6}\] )\[ *[TC]\d+\] ", r"\1", npdump("--dump-dmesg", vmcore).stdout)
    assert [line.lstrip() for line in ours.splitlines()] == theirs
    assert len(theirs) > 300


def test_crash_knows_an_incomplete_dump(real, tool, tmp_path):
    """In the order of page frames page tables at the end of memory are lost, without which crash ends; it says so."""
    vmcore, vmlinux, _ = real
    program, path = tool("crash"), tmp_path / "dump"
    assert harness.run("-l", "-d", "31", "-L", "20M", "--no-vital-first", vmcore, path).returncode == 1
    assert open_dump(path).status & 0x8
    argv = [program, "-s", vmlinux, path]
    result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
    assert "This dumpfile is incomplete." in result.stdout
    assert "crash: page incomplete: " in result.stdout


@pytest.mark.parametrize("format", ["lzo", "elf"])
def test_crash_opens_a_dump_that_lacks_little(format, real, tool, tmp_path):
    """With zeros for what is lost, as it offers; all that is there is right."""
    vmcore, vmlinux, release = real
    program, whole, path = tool("crash"), tmp_path / "whole", tmp_path / "dump"
    harness.run_ok(FORMATS[format], "-d", "31", vmcore, whole)
    limit = whole.stat().st_size - 100_000
    assert harness.run(FORMATS[format], "-d", "31", "-L", str(limit), vmcore, path).returncode == 1
    dump = open_dump(path)
    pages = [pfn for pfn in dump.kept.tolist()[::2000] if format == "elf" or not dump.is_lost(pfn)]
    script = tmp_path / "commands"
    script.write_text("\n".join(["sys", *(f"rd -p {pfn * 4096:x} 2" for pfn in pages), "quit"]) + "\n")
    argv = [program, "-s", "--zero_excluded", "-i", script, vmlinux, path]
    result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr
    assert "This dumpfile is incomplete." in result.stdout
    assert "may be truncated" not in result.stdout
    assert f"RELEASE: {release}" in result.stdout
    assert len(pages) > 5
    assert wrongly_read(result.stdout, pages, vmcore) == []


def test_drgn_with_debug_information(npdump, real, tmp_path):
    vmcore, vmlinux, _ = real
    assert npdump("-l", "-d", "31", vmcore, tmp_path / "dump").returncode == 0
    script = """
import json, sys
import drgn
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.printk import get_dmesg
program = drgn.Program()
program.set_core_dump(sys.argv[1])
program.load_debug_info([sys.argv[2]])
tasks = [task.comm.string_().decode() for task in for_each_task(program)]
trace = [frame.name for frame in program.crashed_thread().stack_trace()]
print(json.dumps({"tasks": tasks, "trace": trace, "panic": b"Kernel panic - not syncing" in get_dmesg(program)}))
"""
    facts = ask(sys.executable, script, tmp_path / "dump", [vmlinux], "drgn is not installed")
    assert "init" in facts["tasks"]
    assert "panic" in facts["trace"]
    assert facts["panic"]
