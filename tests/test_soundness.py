# SPDX-License-Identifier: GPL-2.0-or-later
"""What `npdump check` says of sound and of damaged dumps, held against the programs that it speaks of."""

import json
import random
import subprocess

import numpy as np
import pytest

import npdump
from npdump.answers.soundness import check_soundness
from npdump.errors import NpdumpError
from npdump.observer import SILENT
from tests import harness
from tests.openers.damage import damaged
from tests.readers import open_dump

N_DAMAGED = 24


@pytest.fixture(scope="module")
def real(distilled, tmp_path_factory):
    """A small dump of a real machine, with a log and zones, which the synthetic ones do without."""
    path = tmp_path_factory.mktemp("real") / "dump"
    with npdump.open(distilled("x86_64-6.1")) as dump:
        dump.write(path, level=31, codec="lzo", n_threads=1)
    return path


def answers(path, *more):
    with npdump.open(path, *more) as dump:
        return {answer.subject: answer for answer in check_soundness(dump, SILENT)}


def test_a_real_dump_is_sound(real, npdump):
    result = npdump("check", "--json", real)
    assert result.returncode == 0
    good = {answer["subject"]: answer["is_good"] for answer in json.loads(result.stdout)}
    assert good == {"file": True, "headers": True, "pages": True, "kernel": True, "crash": True, "drgn": True,
                    "gdb": False, "libkdumpfile": True}  # fmt: skip


def test_a_page_that_can_not_be_had_is_named(real, tmp_path, npdump):
    dump = open_dump(real)
    packed = int(np.flatnonzero(dump.descriptors["flags"])[7])
    entry = dump.descriptors[packed]
    altered = tmp_path / "altered"
    data = bytearray(real.read_bytes())
    data[int(entry["offset"]) : int(entry["offset"]) + int(entry["size"])] = b"\xff" * int(entry["size"])
    altered.write_bytes(data)
    n_bad = int((dump.descriptors["offset"] == entry["offset"]).sum())
    first = dump.kept[np.flatnonzero(dump.descriptors["offset"] == entry["offset"])[0]]
    result = npdump("check", altered)
    assert result.returncode == 1
    assert f"{n_bad} of {len(dump.kept)} pages can not be had, the first: physical page {first:#x}" in result.stdout
    assert "drgn          no   not sure to: see pages" in result.stdout


def test_forms_and_who_reads_them(real, tmp_path):
    elf, flattened = tmp_path / "elf", tmp_path / "flattened"
    with npdump.open(real) as dump:
        dump.write(elf, level=31, format="elf", n_threads=1)
    with open(flattened, "wb") as stdout:
        harness.run_ok("-F", "-l", "-d", "31", real, stdout=stdout)
    assert {name for name, answer in answers(elf).items() if not answer.is_good} == set()
    assert {name for name, answer in answers(flattened).items() if not answer.is_good} == {"gdb", "drgn"}


def test_a_split_dump_that_lacks_a_part_is_not_whole(real, tmp_path):
    parts = [tmp_path / f"part{i}" for i in range(3)]
    with npdump.open(real) as dump:
        dump.write(*parts, level=31, codec="lzo", n_threads=1)
    assert answers(*parts)["file"].is_good
    assert not answers(*parts[:2])["file"].is_good


def test_who_is_said_to_open_a_damaged_dump_does(real, tmp_path):
    drgn = pytest.importorskip("drgn")
    chance, data, path = random.Random(11), real.read_bytes(), tmp_path / "damaged"
    n_yes = n_no = 0
    for _ in range(N_DAMAGED):
        path.write_bytes(damaged(data, chance))
        try:
            will_open = answers(path)["drgn"].is_good
        except NpdumpError:
            will_open = False
        n_yes += will_open
        n_no += not will_open
        if will_open:
            program = drgn.Program()
            program.set_core_dump(str(path))
            assert program["UTS_RELEASE"].string_().startswith(b"6.1.")
    assert n_yes
    assert n_no > N_DAMAGED // 2


def test_gdb_opens_what_it_is_said_to(real, tmp_path, tool):
    elf = tmp_path / "elf"
    with npdump.open(real) as dump:
        dump.write(elf, level=31, format="elf", n_threads=1)
    command = [tool("gdb"), "-nx", "-batch", "-c", elf, "-ex", "info registers rip"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ("rip " in result.stdout) == answers(elf)["gdb"].is_good
    assert not answers(real)["gdb"].is_good
