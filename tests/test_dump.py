# SPDX-License-Identifier: GPL-2.0-or-later
"""npdump as a library: `npdump.open` and what it returns."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import npdump
from npdump.errors import AddressError, FactError, UsageError, VersionMismatch
from npdump.observer import SILENT, Recorder
from tests import harness
from tests.builders.kernels import KERNELS
from tests.builders.pages import Block
from tests.builders.vmcore import Description, build
from tests.readers import elf as elf_reader
from tests.readers import kdump as kdump_reader

NAME = "x86_64-6.1"
MIB = 1 << 20


@pytest.fixture
def dump(distilled):
    with npdump.open(distilled(NAME)) as opened:
        yield opened


def test_importing_npdump_imports_nothing_else():
    # What an interpreter has of these when it starts depends on what is installed beside it.
    code = "import sys, __future__, importlib, typing, warnings; before = set(sys.modules)"
    code += "; import npdump; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=harness.REPOSITORY
    )
    assert done.stdout.split() == ["npdump"]
    assert set(npdump.__all__) <= set(dir(npdump))
    assert all(getattr(npdump, name) is not None for name in npdump.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = npdump.no_such_name


def test_nothing_is_opened_before_it_is_asked_for(tmp_path):
    with npdump.open(tmp_path / "missing") as lazy:
        assert "missing" in repr(lazy)
        with pytest.raises(npdump.errors.SourceError, match="missing"):
            _ = lazy.source


def test_a_closed_dump_says_so(distilled):
    dump = npdump.open(distilled(NAME))
    dump.close()
    dump.close()
    with pytest.raises(UsageError, match="closed"):
        _ = dump.info


def test_a_dump_is_pickled_by_reopening(distilled, tmp_path):
    dump = npdump.open(str(distilled(NAME)), use_mmap=False, work_dir=tmp_path)
    release = dump.info.release
    with dump, pickle.loads(pickle.dumps(dump)) as copy:
        assert copy.paths == dump.paths and copy.reading == dump.reading
        assert copy.info.release == release


@pytest.mark.parametrize("form", ["kdump", "flattened", "gzip", "parts"])
def test_every_form_is_opened(form, distilled, tmp_path):
    vmcore, paths = distilled(NAME), [tmp_path / "dump"]
    if form == "kdump":
        harness.run_ok("-l", vmcore, *paths)
    elif form == "parts":
        paths.append(tmp_path / "second")
        harness.run_ok("--split", "-l", vmcore, *paths)
    else:
        with paths[0].open("wb") as file:
            command = ["gzip", "-1c", vmcore] if form == "gzip" else [*harness.npdump_command(), "-F", vmcore]
            subprocess.run(command, stdout=file, check=True, cwd=harness.REPOSITORY)
    with npdump.open(vmcore) as one, npdump.open(*paths) as other:
        assert other.info.release == one.info.release
        assert other.info.n_data == one.info.n_data
        assert other.log().records == one.log().records


def test_facts_beside_the_dump(distilled, tmp_path):
    with pytest.raises(UsageError, match="one of them"):
        npdump.open(distilled(NAME), vmlinux="a", vmcoreinfo="b")
    other = tmp_path / "other"
    other.write_text("OSRELEASE=5.0.0\n")
    with npdump.open(distilled(NAME), vmcoreinfo=other) as dump, pytest.raises(VersionMismatch):
        _ = dump.kernel


def test_memory_is_what_the_file_has(dump, distilled):
    """By the tests' own reader of ELF."""
    core = elf_reader.ElfDump(distilled(NAME))
    segment = core.loads[1]
    paddr, vaddr = segment.paddr + 0x1FF0, segment.vaddr + 0x1FF0
    with distilled(NAME).open("rb") as file:
        file.seek(segment.offset + 0x1FF0)
        wanted = file.read(0x40)
    assert dump.physical.read(paddr, 0x40) == dump.memory.read(vaddr, 0x40) == wanted
    found = dump.translate(vaddr)
    assert (found.paddr, found.pfn, found.is_dumped) == (paddr, paddr >> 12, True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.paddr = 0
    for wrong in (-1, 1 << 64, 0x1000):
        with pytest.raises(AddressError):
            dump.translate(wrong)
    with pytest.raises(FactError, match="no_such"):
        dump.symbol("no_such")
    with pytest.raises(AddressError):
        dump.page(dump.source.max_mapnr)


@pytest.mark.parametrize("level", [1, 8, 31])
def test_a_scan_keeps_what_the_reference_keeps(dump, level):
    reference = harness.reference(NAME)
    result = dump.scan(level)
    assert result.doubts == () and (result.level, result.trusted_level) == (level, level)
    n = result.max_mapnr
    assert np.array_equal(result.ram, reference.bitmap1[:n])
    kept, classes = np.zeros(n, np.bool_), np.zeros(n, np.uint8)
    for chunk in result.chunks():
        stop = chunk.pfn_start + len(chunk.kept)
        kept[chunk.pfn_start : stop], classes[chunk.pfn_start : stop] = chunk.kept, chunk.classes
    assert np.array_equal(result.kept, kept)
    # Pages of zeros are not looked for.
    assert np.array_equal(kept, harness.reference(NAME).kept(level & ~1)[:n])
    names = {page_class.name: int((classes[result.ram] == page_class).sum()) for page_class in npdump.PageClass}
    assert {name: number for name, number in names.items() if name != "KEPT"} == result.counts


@pytest.mark.parametrize("level", [-1, 32, (), (1, 99)])
def test_levels_have_limits(dump, level, tmp_path):
    with pytest.raises(UsageError, match="dump level"):
        dump.write(tmp_path / "out", level=level)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"codec": "none"}, {"format": "none"}])
def test_codecs_and_formats_are_known_by_name(dump, wrong, tmp_path):
    with pytest.raises(UsageError, match="none"):
        dump.write(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_writing_is_the_engine_of_the_command(dump, distilled, tmp_path):
    heard = Recorder()
    summary = dump.write(tmp_path / "ours", level=30, codec="lzo", observer=heard)
    harness.run_ok("-l", "-d30", distilled(NAME), tmp_path / "wanted")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "wanted").read_bytes()
    assert summary.n_remaining == int(harness.reference(NAME).kept(30).sum())
    assert (summary.dump_level, summary.codec, summary.format, summary.warnings) == (30, "lzo", "kdump", ())
    assert {"Excluding unnecessary pages", "Copying data"} <= set(summary.seconds_by_stage)
    with pytest.raises(npdump.errors.SinkError, match="exists"):
        dump.write(tmp_path / "ours")
    parts = [tmp_path / "part1", tmp_path / "part2"]
    dump.write(*parts, level=30)
    with npdump.open(*parts) as whole:
        assert whole.info.n_data == summary.n_remaining


def test_when_no_level_fits_the_last_is_cut_short(dump, tmp_path):
    """Those that did not fit leave nothing, and nothing in the way of the next one: two parts, of which one fits."""
    parts = [tmp_path / "part1", tmp_path / "part2"]
    with pytest.raises(npdump.errors.NoSpace, match="cut short") as caught:
        dump.write(*parts, level=(0, 31), limit_nbytes=1 << 20)
    assert caught.value.__cause__ is not None
    assert kdump_reader.KdumpFile(parts[0]).status & 0x8


def test_a_page_of_a_kind_in_doubt_is_left_out_at_no_level(tmp_path):
    """As in a dump: it is not where it should be that says which pages are free."""
    shifted = {"OFFSET(page._mapcount)": 8}
    want = Description(ram=[(MIB, 64 * MIB)], kernel=KERNELS["6.12"], blocks=[Block(0x2000, "free", 10, 2)])
    with npdump.open(build(tmp_path / "right", want).path) as dump:
        assert "FREE" in dump.page(0x2000).class_by_level.values()
    recorder = Recorder()
    wrong = build(tmp_path / "wrong", dataclasses.replace(want, keys=shifted)).path
    with npdump.open(wrong, observer=recorder) as dump:
        assert "FREE" not in dump.page(0x2000).class_by_level.values()
        assert dump.scan(16).counts["FREE"] == 0
    assert any("free pages" in text for text in recorder.warnings)


class _Interrupting(Recorder):
    """Raises what a notebook's cell gets when it is stopped, as soon as there is progress in a stage."""

    def __init__(self, n_before):
        super().__init__(SILENT)
        self.n_before = n_before

    def progress(self, stage, done, total, nbytes=0):
        self.n_before -= 1
        if self.n_before < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("n_before", [0, 2, 30])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_an_interrupt_leaves_no_file_and_no_thread(n_before, n_threads, dump, tmp_path):
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        dump.write(tmp_path / "out", level=1, codec="lzo", n_threads=n_threads, observer=_Interrupting(n_before))
    assert not list(tmp_path.iterdir())
    assert set(threading.enumerate()) == before
