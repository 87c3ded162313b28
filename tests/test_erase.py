# SPDX-License-Identifier: GPL-2.0-or-later
"""Erasing: the language, what it finds in a memory made for it, and the bytes of dumps; makedumpfile's are the same."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import npdump
from npdump.arrays import expand
from npdump.erase import carry_out, make_plan
from npdump.erase.language import parse
from npdump.errors import AddressError, ConfigError, FactError
from npdump.kernel.facts.graph import VOID, CType, Field, Kind
from npdump.kernel.memory import Extent
from npdump.sources._erased import ErasePlan, byte_runs
from tests import harness
from tests.readers import notes, open_dump

ERASE = harness.FIXTURES / "erase"
X = b"X"

WRONG = {
    "erase": "1: erase: of what",
    "\nerase a b": "2: b: after the symbol",
    "erase a size": "1: size: after the symbol",
    "erase a size 0": "1: size 0",
    "erase a size 1K 2": "1: size 1K 2: after",
    "erase a..b": "1: a..b: isn't a symbol",
    "erase a-b": "1: a-b: isn't a symbol",
    "# fine\nfree a": "2: free: isn't erase",
    "for a b": "1: a loop is",
    "for a in b\nerase a": "1: for without endfor",
    "for a in b via\nendfor": "1: via: isn't",
    "for a in b within c\nendfor": "1: within c: isn't",
    "for 9 in b\nendfor": "1: 9: can't be a name",
    "for a in b\nendfor": "2: the loop erases nothing",
    "endfor": "1: endfor without",
    "for a in b\n[m]": "1: a section begins before endfor",
    "for a in b\n" * 17: "17: more than 16 loops",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_said_with_its_line(text):
    with pytest.raises(ConfigError) as info:
        parse(text, "a.conf")
    assert str(info.value).startswith(f"a.conf:{WRONG[text]}")
    assert "\n" not in str(info.value)


def test_sections_sizes_and_comments_are_read():
    kernel: Any
    module: Any
    kernel, module = parse("erase a size 2k # of it\n[snd-pcm]\nerase (page)b.c size 0x10\nerase d nullify", "a.conf")
    assert (kernel.module, kernel.commands[0].size) == ("vmlinux", 2048)
    assert (module.module, module.commands[0].what.cast, module.commands[0].size) == ("snd_pcm", "page", 16)
    assert module.commands[1].nullify


BASE = 0xFFFF888000000000
INT, CHAR, LONG = CType(Kind.INT, "int", 4, is_signed=True), CType(Kind.INT, "char", 1), CType(Kind.INT, "long", 8)


def pointer(target):
    return CType(Kind.POINTER, nbytes=8, find_target=lambda: target)


def array(of, n):
    return CType(Kind.ARRAY, nbytes=of.nbytes * n, n_elements=n, find_target=lambda: of)


def struct_of(name, nbytes, **members):
    fields = [(key, Field(offset, ctype)) for key, (offset, ctype) in members.items()]
    return CType(Kind.STRUCT, name, nbytes, find_members=lambda: fields)


LIST: CType = CType(Kind.STRUCT, "list_head", 16, find_members=lambda: [("next", Field(0, pointer(LIST)))])
NODE: CType = CType(
    Kind.STRUCT,
    "node",
    64,
    find_members=lambda: [
        ("next", Field(0, pointer(NODE))),
        ("list", Field(8, LIST)),
        ("name", Field(24, pointer(CHAR))),
        ("key", Field(32, pointer(VOID))),
        ("size", Field(40, INT)),
        ("", Field(48, struct_of("", 8, inner=(4, INT)))),
    ],
)


class Memory:
    """A few kilobytes of memory, mapped one to one from `BASE` on, in the place of the kernel's."""

    data_nbytes = 1 << 20

    def __init__(self) -> None:
        self.raw = bytearray(4096)

    def put(self, at, form, *values):
        struct.pack_into("<" + form, self.raw, at, *values)

    def read(self, vaddr, nbytes):
        if not 0 <= vaddr - BASE <= len(self.raw) - nbytes:
            raise AddressError(f"kernel address {vaddr:#x} isn't mapped")
        return bytes(self.raw[vaddr - BASE :][:nbytes])

    def read_word(self, vaddr):
        return int.from_bytes(self.read(vaddr, 8), "little")

    def read_array(self, vaddr, dtype, n):
        return np.frombuffer(self.read(vaddr, n * dtype.itemsize), dtype)

    def read_lossy(self, vaddr, nbytes):
        there = np.frombuffer(self.read(vaddr, min(nbytes, BASE + 4096 - vaddr)), np.uint8)
        raw = np.zeros(nbytes, np.uint8)
        raw[: len(there)] = there
        return raw, np.array([[len(there), nbytes]])[: len(there) < nbytes]

    def extents(self, vaddr, nbytes):
        there = 0 <= vaddr - BASE <= len(self.raw) - nbytes
        return [Extent(vaddr, nbytes, vaddr - BASE if there else None)]

    def dtype(self, kind):
        return np.dtype(kind).newbyteorder("<")

    @property
    def kernel(self):
        return self

    @property
    def memory(self):
        return self


class Names(Memory):
    """The memory with names for what is in it: three nodes at 0x100, 0x200 and 0x300."""

    VARIABLES: ClassVar = {
        "first": (0x100, NODE),
        "to_first": (0x80, pointer(NODE)),
        "head": (0x90, LIST),
        "table": (0x400, array(pointer(NODE), 4)),
        "nodes": (0x100, array(NODE, 1)),
        "count": (0xA0, INT),
        "buffer": (0x500, array(CHAR, 100)),
        "untyped": (0x600, None),
        "nowhere": (0xB0, pointer(NODE)),
    }

    def __init__(self) -> None:
        super().__init__()
        for at, following in ((0x100, 0x200), (0x200, 0x300), (0x300, 0)):
            self.put(at, "Q", BASE + following if following else 0)
            self.put(at + 8, "Q", BASE + (following + 8 if following else 0x90))
            self.put(at + 24, "QQi", BASE + 0x700 + at, BASE + 0xC00, at)
            self.raw[0x700 + at : 0x706 + at] = b"a name"
        self.put(0x80, "Q", BASE + 0x100)
        self.put(0x90, "Q", BASE + 0x108)
        self.put(0xA0, "i", -5)
        self.put(0xB0, "Q", 0xDEAD)
        self.put(0x400, "QQQQ", BASE + 0x200, 0, BASE + 0x300, 0)

    def need_symbol(self, name, module):
        if name not in self.VARIABLES:
            raise FactError(f"{name}: there is no such symbol")
        return BASE + self.VARIABLES[name][0]

    def is_given_back(self, vaddr):
        return False

    def variable(self, name, module):
        return self.VARIABLES[name][1]

    def record(self, name, module):
        return {"node": NODE, "list_head": LIST}[name]


def found_by(text, names=None):
    outcome = carry_out("a.conf", parse(text, "a.conf"), names or Names())
    return [(one.vaddr - BASE, one.nbytes) for one in outcome.found], outcome.problem_texts()


FOUND = {
    "erase first": [(0x100, 64)],
    "erase to_first": [(0x100, 64)],
    "erase first.next.next.size": [(0x328, 4)],
    "erase first.inner": [(0x134, 4)],
    "erase first.name": [(0x800, 6)],
    "erase first.key size first.size": [(0xC00, 0x100)],
    "erase first.key nullify": [(0x120, 8)],
    "erase first.next.next.next.name": [],
    "erase buffer": [(0x500, 100)],
    "erase buffer size 7": [(0x500, 7)],
    "erase untyped size 7": [(0x600, 7)],
    "erase (node)untyped.size": [(0x628, 4)],
    "for n in first via next\nerase n.size\nendfor": [(0x128, 4), (0x228, 4), (0x328, 4)],
    "for n in to_first via next\nerase n.key size n.size\nendfor": [(0xC00, 0x100), (0xC00, 0x200), (0xC00, 0x300)],
    "for n in head within node:list\nerase n.size\nendfor": [(0x128, 4), (0x228, 4), (0x328, 4)],
    "for n in head.next within node : list\nerase n.size\nendfor": [(0x128, 4), (0x228, 4), (0x328, 4)],
    "for n in table\nerase n.size\nendfor": [(0x228, 4), (0x328, 4)],
    "for n in nodes\nerase n.size\nfor m in n.next via next\nerase m.name\nendfor\nendfor": [
        (0x128, 4),
        (0x900, 6),
        (0xA00, 6),
    ],
}


@pytest.mark.parametrize("text", FOUND)
def test_commands_find_what_they_name(text):
    assert found_by(text) == (FOUND[text], [])


NOT_FOUND = {
    "erase nosuch": "1: nosuch: there is no such symbol",
    "erase first.nosuch": "1: first.nosuch: struct node has no member nosuch",
    "erase count.x": "1: count.x: x would be a member of int, which has none",
    "erase untyped": "1: untyped: its size is not known (nothing tells its type): give size",
    "erase untyped.x": "1: untyped: nothing tells its type: give -x VMLINUX, or write (TYPE)untyped",
    "erase first.key": "1: first.key: its size is not known (it is void *): give size or nullify",
    "erase count nullify": "1: count: nullify is for pointers, and it is int",
    "erase buffer size count": "1: count: the size would be -5",
    "erase buffer size first": "1: first: isn't a number but struct node",
    "erase buffer size 2M": "1: buffer: would have 2097152 bytes, more than the dump",
    "erase nowhere.size": "1: nowhere.size: 0xded5 isn't mapped",
    "erase nowhere.next.size": "1: kernel address 0xdead isn't mapped",
    "for n in first\nerase n\nendfor": "1: first: it is struct node, not an array: a list takes via or within",
    "for n in first via list2\nerase n\nendfor": "1: first: is struct node, which has no member list2",
}


@pytest.mark.parametrize("text", NOT_FOUND)
def test_what_finds_nothing_is_said(text):
    found, problems = found_by(text)
    assert problems == [f"a.conf:{NOT_FOUND[text]}"]
    assert not found


def test_damaged_configurations_are_refused_or_find_what_they_still_name():
    rng = np.random.default_rng(15)
    whole = "\n".join([*FOUND, *NOT_FOUND])
    n_refused = 0
    for _ in range(100):
        start, nbytes = rng.integers(len(whole)), rng.integers(1, 30)
        text = whole[:start] + "".join(map(chr, rng.integers(1, 127, rng.integers(20)))) + whole[start + nbytes :]
        try:
            said = carry_out("a.conf", parse(text, "a.conf"), Names()).problem_texts()
        except ConfigError as error:
            n_refused += 1
            said = [str(error)]
        assert all(line.startswith("a.conf:") and "\n" not in line for line in said)
    assert 20 < n_refused < 100


@pytest.mark.parametrize("text", ["first via next", "head within node:list"])
def test_a_list_in_a_circle_comes_to_an_end(text):
    names = Names()
    names.put(0x300, "QQ", BASE + 0x200, BASE + 0x208)  # not back to the first, but to the second
    found, problems = found_by(f"for n in {text}\nerase n.size\nendfor", names)
    assert found == [(0x128, 4), (0x228, 4), (0x328, 4)]
    assert len(problems) == 1
    assert problems[0].endswith("the list does not come to an end: it is damaged")


class Scattered(Names):
    """The memory with 0x580 and what comes after it elsewhere, as vmalloc memory is."""

    def extents(self, vaddr, nbytes):
        n = BASE + 0x580 - vaddr
        if not 0 < n < nbytes:
            return super().extents(vaddr, nbytes)
        return [Extent(vaddr, n, vaddr - BASE), Extent(vaddr + n, nbytes - n, 0x9000)]


def test_an_object_is_erased_whole_wherever_its_pages_are():
    outcome = carry_out("a.conf", parse("erase buffer size 0xa0", "a.conf"), Scattered())
    plan = make_plan(outcome.found)
    assert plan.filled.tolist() == [[0x500, 0x580], [0x9000, 0x9020]]
    assert plan.text == b"erase buffer size 160\n"


def test_a_list_that_leads_out_of_memory_is_followed_to_there():
    names = Names()
    names.put(0x200, "Q", 0xDEAD0)
    found, problems = found_by("for n in first via next\nerase n.size\nendfor", names)
    assert found == [(0x128, 4), (0x228, 4)]
    assert any("cut off after" in problem for problem in problems)


def overwritten(memory: np.ndarray, plan: ErasePlan) -> np.ndarray:
    """What a plan makes of memory from address 0 on, range by range."""
    wanted = memory.copy()
    for start, stop in plan.filled:
        wanted[start:stop] = ord("X")
    for start, stop in plan.zeroed:
        wanted[start:stop] = 0
    return wanted


def test_a_plan_overwrites_pages_wherever_its_ranges_are():
    rng = np.random.default_rng(5)
    memory = rng.integers(1, 256, 64 * 64, dtype=np.uint8)
    for _ in range(200):
        ranges = np.column_stack((rng.integers(0, 4000, 12), rng.integers(1, 90, 12))).tolist()
        plan = ErasePlan(byte_runs(ranges[:8]), byte_runs(ranges[8:]))
        wanted = overwritten(memory, plan).reshape(64, 64)
        edges = np.sort(rng.choice(65, 6, replace=False))
        runs = edges.reshape(-1, 2)
        pages = memory.reshape(64, 64)[expand(runs[:, 0], runs[:, 1] - runs[:, 0])]
        plan.overwrite(runs * 64, pages.reshape(-1))
        assert (pages == wanted[expand(runs[:, 0], runs[:, 1] - runs[:, 0])]).all()
        touched = np.flatnonzero((memory.reshape(64, 64) != wanted).any(axis=1))
        assert np.isin(touched, expand(*_starts_and_lengths(plan.pfn_runs(64)))).all()


def _starts_and_lengths(runs):
    return runs[:, 0], runs[:, 1] - runs[:, 0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A vmcore, a configuration for it, and what is to be erased: addresses and what becomes of them."""
    directory = tmp_path_factory.mktemp("erase")
    vmcore = harness.distilled_vmcore("x86_64-6.1")
    config = directory / "erase.conf"
    config.write_text("erase init_uts_ns size 5000\nerase clear_seq size 4\n")
    with npdump.open(vmcore) as dump:
        symbols = [dump.facts.get(f"SYMBOL({name})") for name in ("init_uts_ns", "clear_seq")]
        places = [(dump.translate(vaddr).paddr, nbytes) for vaddr, nbytes in zip(symbols, (5000, 4), strict=True)]
    return vmcore, config, places, directory


TEXT = b"erase init_uts_ns size 5000\nerase clear_seq size 4\n"


def assert_erased(plain: Path, erased: Path, places, page_size=4096):
    """Hold two dumps together: they differ where something is erased, and there they have the letter X."""
    one, other = open_dump(plain), open_dump(erased)
    kept = other.kept.tolist()
    assert one.kept.tolist() == kept or plain.name == "twice"
    for pfn in kept:
        wanted = bytearray(one.page(pfn))
        for paddr, nbytes in places:
            start, stop = max(paddr - pfn * page_size, 0), min(paddr + nbytes - pfn * page_size, page_size)
            if start < stop:
                wanted[start:stop] = X * (stop - start)
        assert other.page(pfn) == bytes(wanted), hex(pfn)


@pytest.mark.parametrize("form", ["elf", "kdump"])
def test_a_dump_has_no_erased_bytes_and_says_so(made, form):
    vmcore, config, places, directory = made
    plain, erased = directory / f"plain.{form}", directory / f"erased.{form}"
    with npdump.open(vmcore) as dump:
        options = {"level": 31, "format": form, "codec": "zlib" if form == "kdump" else "raw", "force": True}
        dump.write(plain, **options)
        dump.write(erased, config=config, **options)
    assert_erased(plain, erased, places)
    assert eraseinfo(erased) == TEXT


def test_pages_that_are_copied_by_the_system_are_not_those_that_are_erased(made):
    vmcore, _, places, _ = made
    with npdump.open(vmcore) as dump:
        pfn = places[0][0] // 4096
        plan = ErasePlan(byte_runs(places), byte_runs([]))
        erased = dump.source.erasing(plan)
        assert dump.source.file_range(pfn - 1, pfn + 3) is not None
        assert erased.file_range(pfn - 1, pfn + 3) is None
        assert erased.file_range(pfn, pfn + 1) is None
        assert erased.file_range(pfn - 1, pfn) == dump.source.file_range(pfn - 1, pfn)


def eraseinfo(path: Path) -> bytes:
    dump = open_dump(path)
    if dump.kind == "kdump":
        at, nbytes = (dump.fields[name] for name in ("offset_eraseinfo", "size_eraseinfo"))
        return dump.data[at : at + nbytes]
    note = notes.find(dump.notes, "ERASEINFO")
    return note.desc.rstrip(b"\0")


def test_filtering_again_erases_more_and_keeps_what_is_said(made):
    vmcore, config, places, directory = made
    once, plain, twice, elf, again = (directory / name for name in ("once", "plain", "twice", "elf", "again"))
    second = directory / "second.conf"
    second.write_text("erase init_uts_ns size 6000")
    with npdump.open(vmcore) as dump:
        dump.write(once, level=31, codec="zlib", config=config)
        dump.write(plain, level=31, codec="zlib")
    with npdump.open(once) as dump:
        dump.write(twice, level=31, codec="zlib", config=second)
        dump.write(elf, level=31, format="elf", config=second)
    with npdump.open(elf) as dump:
        dump.write(again, level=31, codec="zlib")
    more = [(places[0][0], 6000), places[1]]
    assert_erased(plain, twice, more)
    assert eraseinfo(twice) == eraseinfo(elf) == TEXT + b"erase init_uts_ns size 6000\n"
    assert_erased(twice, again, more)  # an ELF dump has fewer zero pages
    assert eraseinfo(again).rstrip() == eraseinfo(elf).rstrip()


def test_parts_of_a_split_dump_say_it_once_when_they_are_one_again(made):
    vmcore, config, places, directory = made
    parts, whole, plain = [directory / "part1", directory / "part2"], directory / "whole", directory / "plain2"
    with npdump.open(vmcore) as dump:
        dump.write(*parts, level=31, config=config)
        dump.write(plain, level=31)
    with npdump.open(*parts) as dump:
        dump.write(whole, level=31)
    assert eraseinfo(whole) == TEXT
    assert_erased(plain, whole, places)


def test_an_error_in_a_configuration_leaves_no_file(made, npdump):
    vmcore, _, _, directory = made
    bad, out = directory / "bad.conf", directory / "none"
    for text, said in (("erase a size", "bad.conf:1: size: after"), ("\0", "isn't a configuration")):
        bad.write_text(text)
        result = npdump("-d", "31", "--config", bad, vmcore, out)
        assert (result.returncode, out.exists()) == (1, False)
        assert said in result.stderr
        assert "Traceback" not in result.stderr


def test_a_command_that_finds_nothing_is_said_and_with_strict_an_error(made, npdump):
    vmcore, _, _, directory = made
    config, out = directory / "few.conf", directory / "few"
    config.write_text("erase nosuch\nerase init_uts_ns size 8")
    result = npdump("-d31", "--config", config, vmcore, out)
    assert result.returncode == 0
    (line,) = [line for line in result.stderr.splitlines() if f"{config}:1: nosuch: there is no such symbol" in line]
    assert line.endswith(": it erases nothing")
    assert eraseinfo(out) == b"erase init_uts_ns size 8\n"
    result = npdump("-fd31", "--strict", "--config", config, vmcore, out)
    assert (result.returncode, "as --strict asks" in result.stderr) == (1, True)
    answer = npdump("--check-config", "--json", "--config", config, vmcore)
    assert answer.returncode == 1
    assert [(row["line"], row["erased_nbytes"]) for row in json.loads(answer.stdout)] == [(1, 0), (2, 8)]


def test_a_kernel_that_has_no_table_of_variables_needs_a_vmlinux(corpus):
    with npdump.open(corpus("arm64-6.1-512M")) as dump:
        outcome = carry_out("a.conf", parse("erase init_task size 8", "a.conf"), dump.names)
    hint = "this kernel has no table of its variables; give -x VMLINUX"
    assert outcome.problem_texts() == [f"a.conf:1: init_task: there is no such symbol: {hint}"]


def test_a_module_has_symbols_and_types_of_its_own(corpus):
    with npdump.open(corpus("x86_64-6.1-256M")) as dump:
        # What crash calls sym virtio_balloon_driver.
        assert dump.names.symbol("virtio_balloon_driver", "virtio_balloon") == 0xFFFFFFFFC0252080
        assert dump.names.symbol("virtio_balloon_driver") is None
        assert "balloon_page_chunk_size" not in dump.names.record("virtio_balloon", "virtio_balloon").members
        assert {"num_pages", "vdev"} <= set(dump.names.record("virtio_balloon", "virtio_balloon").members)
        assert dump.names.find_record("virtio_balloon") is None
        text = "[nosuch]\nerase a\n[virtio-balloon]\nerase virtio_balloon_driver size 6000\nerase init_uts_ns size 8"
        outcome = carry_out("a.conf", parse(text, "a.conf"), dump.names)
    assert ([found.nbytes for found in outcome.found], outcome.problems) == ([6000, 8], {})
    assert outcome.absent == ("nosuch",)


VMLINUX = Path(os.environ.get("NPDUMP_VMLINUX_DIR", Path.home() / ".cache/npdump-tests/vmlinux"))


@pytest.mark.parametrize("name", ["types-in-dump", "types-in-vmlinux"])
def test_the_bytes_are_those_that_makedumpfile_erases(name, corpus):
    vmlinux = VMLINUX / "6.1.0-56-cloud-amd64" / "vmlinux"
    if name == "types-in-vmlinux" and not vmlinux.exists():
        pytest.skip(f"no {vmlinux}: tests/fetch-vmlinux gets it")
    pages = json.loads((ERASE / "makedumpfile.json").read_text())[name]
    given = {"vmlinux": vmlinux} if name == "types-in-vmlinux" else {}
    with npdump.open(corpus("x86_64-6.1-256M"), **given) as dump:
        outcome = dump.erasing(ERASE / f"{name}.conf")
        plan = make_plan(outcome.found)
        erased = dump.source.erasing(plan)
        wanted = {int(pfn): digest for pfn, digest in pages.items()}
        pfns = {int(pfn) for pfn in expand(*_starts_and_lengths(plan.pfn_runs(4096)))}
        found = {pfn: erased.view(pfn * 4096, 4096).tobytes() for pfn in pfns}
        found = {pfn: page for pfn, page in found.items() if page != dump.source.view(pfn * 4096, 4096).tobytes()}
    assert not outcome.problems
    assert {pfn: hashlib.sha256(page).hexdigest()[:32] for pfn, page in found.items()} == wanted
