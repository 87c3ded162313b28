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


@pytest.fixture(scope="module")
def real_elf(real, tmp_path_factory):
    path = tmp_path_factory.mktemp("elf") / "elf"
    with npdump.open(real) as dump:
        dump.write(path, level=31, format="elf", n_threads=1)
    return path


ELF_PHOFF, PHDR_NBYTES = 64, 56
P_OFFSET, P_VADDR = 8, 16


@pytest.mark.parametrize(
    ("at", "bit", "subject", "reason"),
    [
        # libkdumpfile looks for the release where VMCOREINFO's note says: npdump found another in memory.
        (b"SYMBOL(init_uts_ns)", 6, "kernel", "the VMCOREINFO among its notes is damaged"),
        # The pages of the kernel's image are in the direct map's segment too, but not by these addresses.
        (ELF_PHOFF + 2 * PHDR_NBYTES + P_OFFSET + 4, 5, "headers", "bytes that are not in the file"),
        (ELF_PHOFF + 2 * PHDR_NBYTES + P_OFFSET, 5, "headers", "different bytes for the same memory"),
        (ELF_PHOFF + 2 * PHDR_NBYTES + P_VADDR + 2, 5, "kernel", "is not that of its memory"),
    ],
    ids=["a key's name", "p_offset", "p_offset by 32", "p_vaddr"],
)
def test_npdump_knows_better_than_others(real_elf, tmp_path, at, bit, subject, reason):
    """What others trip over, and npdump doesn't since the same is elsewhere as well, is no reason for a yes."""
    data = bytearray(real_elf.read_bytes())
    data[data.index(at) + 7 if isinstance(at, bytes) else at] ^= 1 << bit
    path = tmp_path / "damaged"
    path.write_bytes(data)
    said = answers(path)
    assert not said[subject].is_good and reason in said[subject].text
    assert not any(said[program].is_good for program in ("crash", "drgn", "gdb", "libkdumpfile"))


def test_gdb_opens_what_it_is_said_to(real, real_elf, tool):
    command = [tool("gdb"), "-nx", "-batch", "-c", real_elf, "-ex", "info registers rip"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ("rip " in result.stdout) == answers(real_elf)["gdb"].is_good
    assert not answers(real)["gdb"].is_good
