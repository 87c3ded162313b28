# SPDX-License-Identifier: GPL-2.0-or-later
"""Two dumps of one memory, the same or altered in a known way: what `npdump compare` says of them."""

import json
import shutil
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

import npdump
from npdump.compare import CannotCompare, compare
from tests import harness, synthetic
from tests.builders.vmcore import build
from tests.readers import open_dump

PAGE_SIZE = 4096


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A small vmcore whose every byte is known, without the offline pages that go at every level."""
    described = synthetic.CASES["kernel-6.1"].describe()
    blocks = [block for block in described.blocks if block.kind != "offline"]
    return build(tmp_path_factory.mktemp("compare") / "vmcore", replace(described, blocks=blocks))


@pytest.fixture(scope="module")
def dumps(machine):
    """dumps(name): the machine's dump in some form, made once."""
    options = {
        "lzo": {"codec": "lzo"},
        "zlib": {"codec": "zlib"},
        "elf": {"format": "elf"},
        "elf-1": {"format": "elf", "level": 1},
        "lzo-31": {"codec": "lzo", "level": 31},
    }

    def path(name):
        found = machine.path.with_name(name)
        if name == "vmcore" or found.exists():
            return found
        if name == "flattened":
            with open(found, "wb") as stdout:
                harness.run_ok("-F", "-l", machine.path, stdout=stdout)
        else:
            with npdump.open(machine.path) as dump:
                dump.write(found, n_threads=1, **options[name])
        return found

    return path


def compared(one, other, with_pages=True, **options):
    with npdump.open(one) as first, npdump.open(other) as second:
        pages = first.pages if with_pages else None
        return compare(first.source, second.source, pages=pages, **options)


@pytest.mark.parametrize("name", ["vmcore", "lzo", "zlib", "elf", "flattened"])
def test_forms_of_one_dump_are_the_same(name, dumps, machine):
    found = compared(machine.path, dumps(name))
    assert found.is_same
    assert found.n_same == machine.bitmap1.sum()
    assert found.n_implied == 0


def test_zero_pages_that_elf_implies_are_the_same(dumps, machine):
    found = compared(dumps("lzo"), dumps("elf-1"))
    zero = [pfn for pfn in np.flatnonzero(machine.bitmap1) if not any(machine.page(pfn))]
    stored = set(open_dump(dumps("elf-1")).kept.tolist())
    assert found.n_implied == len(set(zero) - stored) > 0
    assert (found.lost.n_pages, found.extra.n_pages, found.changed.n_pages) == (0, 0, 0)
    assert compared(dumps("elf-1"), dumps("lzo")).n_implied == found.n_implied


def test_pages_that_a_level_left_out_are_lost(dumps):
    found = compared(dumps("lzo"), dumps("lzo-31"))
    whole, small = (set(open_dump(dumps(name)).kept.tolist()) for name in ("lzo", "lzo-31"))
    named = {pfn for start, stop in found.lost.runs for pfn in range(start, stop)}
    assert named == whole - small
    assert found.lost.n_pages == len(named) == sum(found.lost.by_class.values())
    assert "KEPT" not in found.lost.by_class
    assert [item.name for item in found.headers] == ["dump level"]
    back = compared(dumps("lzo-31"), dumps("lzo"), with_pages=False)
    assert (back.extra.runs, back.extra.n_pages, back.lost.n_pages) == (found.lost.runs, found.lost.n_pages, 0)


def test_a_changed_byte_is_found(machine, tmp_path):
    load = next(load for load in open_dump(machine.path).loads if load.paddr <= 0x5000000 < load.paddr + load.filesz)
    altered = tmp_path / "altered"
    shutil.copy(machine.path, altered)
    with open(altered, "r+b") as file:
        file.seek(load.offset + 0x5000123 - load.paddr)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0xFF]))
    found = compared(machine.path, altered)
    assert not found.is_same
    assert found.changed.runs == ((0x5000, 0x5001),)
    (example,) = found.changed.examples
    assert example.how == f"1 bytes differ, the first at 0x123: {byte:#04x} and {byte ^ 0xFF:#04x}"
    assert compared(machine.path, altered, allowed={"changed": 1}).is_same


def test_a_page_that_does_not_decode_is_changed(dumps, tmp_path):
    dump = open_dump(dumps("zlib"))
    packed = np.flatnonzero(dump.descriptors["flags"])[3]
    entry = dump.descriptors[packed]
    altered = tmp_path / "altered"
    shutil.copy(dumps("zlib"), altered)
    with open(altered, "r+b") as file:
        file.seek(int(entry["offset"]))
        file.write(bytes(int(entry["size"])))
    found = compared(dumps("lzo"), altered)
    same = np.flatnonzero(dump.descriptors["offset"] == entry["offset"])  # equal pages share a place
    assert found.changed.n_pages == len(same)
    assert found.changed.examples[0].pfn == dump.kept[same[0]]
    assert "doesn't uncompress" in found.changed.examples[0].how


def test_notes_and_vmcoreinfo_are_compared_apart(machine, tmp_path):
    data = machine.path.read_bytes()
    altered = tmp_path / "altered"
    altered.write_bytes(data.replace(b"OSRELEASE=6.1", b"OSRELEASE=6.2", 1))
    found = compared(machine.path, altered, with_pages=False)
    assert [item.name for item in found.vmcoreinfo] == ["OSRELEASE"]
    assert (found.notes, found.headers, found.changed.n_pages) == ((), (), 0)
    at = data.index(b"CORE\0") + 8 + 40
    altered.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    found = compared(machine.path, altered, with_pages=False)
    assert [item.name.partition(",")[0] for item in found.notes] == ["CORE of type 0x1"] * 2
    assert found.vmcoreinfo == ()


def test_compressed_bytes_are_compared_if_asked_for(dumps):
    one = compared(dumps("lzo"), dumps("lzo"), compares_stored=True)
    assert one.is_same
    assert one.stored.n_pages == 0
    other = compared(dumps("lzo"), dumps("zlib"), compares_stored=True)
    ours, theirs = (open_dump(dumps(name)) for name in ("lzo", "zlib"))
    is_packed = (ours.descriptors["flags"] != 0) | (theirs.descriptors["flags"] != 0)
    assert other.stored.n_pages == is_packed.sum() > 0
    assert not other.is_same
    assert other.changed.n_pages == 0
    with pytest.raises(CannotCompare, match="ELF"):
        compared(dumps("lzo"), dumps("elf"), compares_stored=True)


def test_exit_codes_json_and_junit(dumps, tmp_path, npdump):
    assert npdump("compare", dumps("lzo"), dumps("zlib"), dumps("vmcore")).returncode == 0
    junit = tmp_path / "junit.xml"
    result = npdump("compare", "--json", "--junit", junit, dumps("lzo"), dumps("lzo-31"))
    assert result.returncode == 1
    answer = json.loads(result.stdout)
    assert answer["areas"]["lost"]["n"] == answer["n_kept"][0] - answer["n_kept"][1]
    suite = ElementTree.parse(junit).getroot()[0]
    assert [case.get("name") for case in suite if len(case)] == ["lost", "headers"]
    allowed = f"lost={answer['areas']['lost']['n']},headers=1"
    assert npdump("compare", "--allow", allowed, dumps("lzo"), dumps("lzo-31")).returncode == 0
    result = npdump("compare", dumps("lzo"), tmp_path / "nothing")
    assert result.returncode == 2
    assert "nothing" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("compare", "one"), "two VMCOREs"),
        (("compare", "--allow", "pages=1", "one", "two"), "pages=1"),
        (("--bytes", "one", "two"), "belongs to npdump compare"),
        (("stats", "--json", "--csv", "one"), "give one"),
    ],
)
def test_usage_errors(arguments, words, npdump):
    result = npdump(*arguments)
    assert result.returncode == 1
    assert words in result.stderr


def test_the_parts_of_a_split_dump_are_one_side(machine, tmp_path, npdump):
    parts = [tmp_path / f"part{number}" for number in range(3)]
    harness.run_ok("--split", "-d", "31", machine.path, *parts)
    harness.run_ok("-d", "31", machine.path, tmp_path / "whole")
    harness.run_ok("--split", "-d", "1", machine.path, tmp_path / "one", tmp_path / "two")
    same = npdump("compare", tmp_path / "whole", *reversed(parts))
    assert (same.returncode, "They are the same." in same.stdout) == (0, True), same.stdout + same.stderr
    other = npdump("compare", *parts, tmp_path / "two", tmp_path / "one")
    assert other.returncode == 1
    assert "They are different" in other.stdout
    alone = npdump("compare", *parts)
    assert (alone.returncode, "all files are parts of one" in alone.stderr) == (2, True)
