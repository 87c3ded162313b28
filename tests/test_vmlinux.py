# SPDX-License-Identifier: GPL-2.0-or-later
"""vmlinux files: symbols and types from DWARF and BTF, damaged ones, and the cache of what was read.

The files are made by a compiler from a few structs with the names of the kernel's: small, so that damage hits.
"""

from __future__ import annotations

import json
import os
import random
import subprocess

import pytest

from npdump.errors import FactError, NpdumpError
from npdump.kernel.facts.vmlinux import read_vmlinux
from tests.bounded import forget_peak, peak_nbytes

SOURCE = """
struct list_head { struct list_head *next, *prev; };
enum pageflags { PG_locked, PG_lru = 5, PG_private = 13, PG_head = 16 };
struct page {
    unsigned long flags;
    union {
        struct { struct list_head lru; void *mapping; unsigned long index, private; };
        struct { unsigned long compound_head; unsigned char compound_dtor, compound_order; };
    };
    union { int _mapcount; unsigned page_type; };
    int _refcount;
};
typedef struct { unsigned long bits[16]; } nodemask_t;
struct zone { unsigned long spanned_pages; struct { struct list_head free_list[4]; } free_area[11]; };
struct zone zones[4];
const char linux_banner[] = "Linux version 6.1.0-small (someone) #1";
int _stext;
enum pageflags get_page_from_freelist(struct page *page, nodemask_t *mask) { return page->flags + mask->bits[0]; }
int main(void) { return zones[0].spanned_pages + linux_banner[0]; }
"""
EXPECTED = {
    "SIZE(page)": 56,
    "OFFSET(page.lru)": 8,
    "OFFSET(page.mapping)": 24,
    "OFFSET(page.private)": 40,
    "OFFSET(page.compound_order)": 17,
    "OFFSET(page._mapcount)": 48,
    "OFFSET(list_head.prev)": 8,
    "LENGTH(zone.free_area)": 11,
    "SIZE(nodemask_t)": 128,
    "NUMBER(PG_lru)": 5,
    "NUMBER(PG_head_mask)": 1 << 16,
}
N_DAMAGED = 400


@pytest.fixture(scope="module")
def vmlinuxes(tmp_path_factory, tool):
    """By name: files with DWARF 4, DWARF 5, and BTF alone."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.c").write_text(SOURCE)
    made = {}
    for name, version in (("DWARF 4", 4), ("DWARF 5", 5), ("BTF", 4)):
        made[name] = folder / name
        options = f"-gdwarf-{version} -O1 -fno-inline -nostartfiles -static -Wl,--build-id -Wl,-emain".split()
        argv = [tool("gcc"), *options, "-o", made[name], folder / "small.c"]
        subprocess.run(argv, check=True)
    subprocess.run([tool("pahole"), "-J", made["BTF"]], check=True)
    subprocess.run([tool("objcopy"), "--remove-section", ".debug*", made["BTF"]], check=True)
    return made


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The directory in which what is read is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "npdump"


class Listener:
    """An observer that keeps the warnings."""

    def __init__(self):
        self.warnings = []
        self.warn = self.warnings.append


@pytest.mark.parametrize("name", ["DWARF 4", "DWARF 5", "BTF"])
def test_types_and_symbols(vmlinuxes, cache, name):
    read = read_vmlinux(str(vmlinuxes[name]))
    assert read.facts.release == "6.1.0-small"
    assert {key: read.facts.get(key) for key in EXPECTED} == EXPECTED
    assert read.facts.get("SYMBOL(_stext)") == read.link_base
    assert read_vmlinux(str(vmlinuxes[name])).facts.items()  # out of the cache


@pytest.mark.parametrize("how", ["zlib", "zlib-gnu"])
def test_debug_sections_that_are_compressed(vmlinuxes, cache, tool, tmp_path, how):
    packed = tmp_path / "packed"
    subprocess.run([tool("objcopy"), f"--compress-debug-sections={how}", vmlinuxes["DWARF 5"], packed], check=True)
    read = read_vmlinux(str(packed))
    assert {key: read.facts.get(key) for key in EXPECTED} == EXPECTED


def test_debug_information_stays_in_the_file(vmlinuxes, cache, tool, tmp_path):
    """That of a kernel is hundreds of megabytes: here 96 MiB more of it than there is."""
    large, zeros = tmp_path / "large", tmp_path / "zeros"
    with open(zeros, "wb") as file:
        file.truncate(48 << 20)
    options = [f"--add-section={name}={zeros}" for name in (".debug_types", ".debug_rnglists")]
    subprocess.run([tool("objcopy"), *options, vmlinuxes["DWARF 4"], large], check=True)
    before = forget_peak()
    read = read_vmlinux(str(large))
    assert {key: read.facts.get(key) for key in EXPECTED} == EXPECTED
    assert peak_nbytes() - before < 24 << 20


def damaged(raw, rng):
    """A copy that is cut short, or has some bytes changed: more of them near both ends, where the headers are."""
    data = bytearray(raw)
    if rng.random() < 0.15:
        return data[: rng.randrange(len(data))]
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.choice((rng.randrange(64), rng.randrange(len(data)), len(data) - 1 - rng.randrange(2000)))
        width = rng.choice((1, 2, 4, 8))
        value = rng.choice((0, 1, 0x7F, 0xFFFF, 0x7FFFFFFF, 1 << 40, (1 << 64) - 1, rng.getrandbits(64)))
        data[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
    return data


@pytest.mark.parametrize("name", ["DWARF 4", "DWARF 5", "BTF"])
def test_damage_is_one_line(vmlinuxes, tmp_path, monkeypatch, name):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")  # nothing is kept
    raw = vmlinuxes[name].read_bytes()
    rng = random.Random(name)
    refusals = []
    for _ in range(N_DAMAGED):
        path = tmp_path / "damaged"
        path.write_bytes(damaged(raw, rng))
        try:
            read_vmlinux(str(path))
        except NpdumpError as error:
            refusals.append(str(error))
    assert 0.2 * N_DAMAGED < len(refusals) < 0.9 * N_DAMAGED
    assert not [text for text in refusals if "\n" in text]


def poison_link(path, kept):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def poison_pipe(path, kept):
    path.unlink()
    os.mkfifo(path)


def poison_directory_link(path, kept):
    path.parent.rename(path.parent.with_name("other"))
    path.parent.symlink_to("other")


def rewritten(change):
    def poison(path, kept):
        path.write_text(change(kept))

    return poison


POISONS = {
    "not JSON": rewritten(lambda kept: "{"),
    "another type": rewritten(lambda kept: "[1, 2]"),
    "another type within": rewritten(lambda kept: json.dumps(kept | {"types": 7})),
    "a banner that is none": rewritten(lambda kept: json.dumps(kept | {"banner": [1]})),
    "of another kernel": rewritten(lambda kept: json.dumps(kept | {"build_id": "00"})),
    "Infinity": rewritten(lambda kept: json.dumps(kept | {"symbols": {"_stext": float("inf")}})),
    "deep nesting": rewritten(lambda kept: "[" * 200_000),
    "too large": rewritten(lambda kept: " " * (17 << 20) + json.dumps(kept)),
    "a link": poison_link,
    "a pipe": poison_pipe,
    "its directory is a link": poison_directory_link,
}


@pytest.mark.parametrize("poison", POISONS)
def test_a_poisoned_cache_is_not_believed(vmlinuxes, cache, poison):
    vmlinux = str(vmlinuxes["DWARF 4"])
    read_vmlinux(vmlinux)
    (path,) = cache.iterdir()
    kept = json.loads(path.read_text())
    kept["symbols"]["_stext"] += 0x1000
    path.write_text(json.dumps(kept))
    assert read_vmlinux(vmlinux).link_base == kept["symbols"]["_stext"], "the cache isn't read at all"
    POISONS[poison](path, kept)
    heard = Listener()
    assert read_vmlinux(vmlinux, observer=heard).link_base == kept["symbols"]["_stext"] - 0x1000
    assert len(heard.warnings) == 1
    assert str(path) in heard.warnings[0]


def test_a_file_without_symbols_is_refused(vmlinuxes, cache, tool, tmp_path):
    subprocess.run([tool("strip"), "-o", tmp_path / "bare", vmlinuxes["DWARF 4"]], check=True)
    with pytest.raises(FactError, match="no symbols"):
        read_vmlinux(str(tmp_path / "bare"))
