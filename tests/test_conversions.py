# SPDX-License-Identifier: GPL-2.0-or-later
"""From any form of dump to any other: the pages stay the same, whoever wrote and whoever reads."""

from __future__ import annotations

import itertools
import json
import struct
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests import harness, peers
from tests.readers import KdumpFile, open_dump
from tests.readers.compare import content_digest
from tests.readers.validate import problems

if TYPE_CHECKING:
    from pathlib import Path

NAME, RELEASE = "x86_64-6.1", "6.1"
ZERO_PAGE = bytes(4096)
TOOL = harness.REPOSITORY / "tools" / "makedumpfile-R.py"


@pytest.fixture(scope="module")
def vmcore():
    """A real vmcore."""
    return harness.distilled_vmcore(NAME)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A directory for this module's dumps."""
    return tmp_path_factory.mktemp("forms")


@pytest.fixture(scope="module")
def reference(vmcore, work):
    """The dump at level 31, straight from the vmcore, uncompressed."""
    path = work / "reference"
    harness.run_ok("-d", "31", vmcore, path)
    return path


@pytest.fixture(scope="module")
def level1(vmcore, work):
    """Dumps at level 1 by codec, straight from the vmcore."""
    paths = {}
    for codec, flag in harness.CODEC_FLAGS.items():
        paths[codec] = work / f"level1-{codec}"
        harness.run_ok(*([flag] if flag else []), "-d", "1", vmcore, paths[codec])
    return paths


@cache
def digest(path: Path) -> str:
    """Of the pages of a dump, zero pages left out: ELF dumps don't have them. No test makes a file of a name twice."""
    dump = open_dump(path)
    pages = dump.contents() if isinstance(dump, KdumpFile) else ((pfn, dump.page(pfn)) for pfn in dump.kept.tolist())
    return content_digest((pfn, page) for pfn, page in pages if page != ZERO_PAGE)


@pytest.mark.parametrize(
    ("source_codec", "codec"),
    [("lzo", "raw"), ("raw", "snappy"), ("snappy", "zstd"), ("zstd", "zlib"), ("zlib", "lzo")],
)
def test_refilter(source_codec, codec, level1, reference, tmp_path):
    flag = harness.CODEC_FLAGS[codec]
    harness.run_ok(*([flag] if flag else []), "-d", "30", level1[source_codec], tmp_path / "out")
    out = KdumpFile(tmp_path / "out")
    assert not problems(tmp_path / "out")
    assert out.fields["dump_level"] == 31
    assert digest(tmp_path / "out") == digest(reference)
    assert (out.bitmap2 == KdumpFile(reference).bitmap2).all()


@pytest.mark.parametrize("codec", ["lzo", "zstd"])  # ISA-L gives a few pages other bytes from run to run
def test_pages_of_the_same_codec_are_copied_byte_for_byte(codec, level1, vmcore, tmp_path):
    flag = harness.CODEC_FLAGS[codec]
    harness.run_ok("--no-share", flag, "-d", "31", level1[codec], tmp_path / "again")
    harness.run_ok("--no-share", flag, "-d", "31", vmcore, tmp_path / "straight")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "straight").read_bytes()


def test_refilter_finds_zero_pages_that_were_stored(vmcore, reference, tmp_path):
    harness.run_ok("-l", "-d", "0", vmcore, tmp_path / "level0")
    harness.run_ok("-l", "-d", "31", tmp_path / "level0", tmp_path / "out")
    out = KdumpFile(tmp_path / "out")
    n_zero = sum(not any(page) for _, page in KdumpFile(reference).contents())
    shared = out.descriptors["offset"] == out.data_offset
    assert shared.sum() == n_zero > 0
    assert digest(tmp_path / "out") == digest(reference)


@pytest.mark.parametrize("flag", ["-l", "-z"])
def test_a_cut_dump_is_salvaged(flag, vmcore, tmp_path):
    """What lay behind the cut is lost; that the kernel's own tables are among it is no reason to lose the rest."""
    harness.run_ok("-l", "-d", "31", vmcore, tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    result = harness.run_ok(flag, "-d", "31", tmp_path / "cut", tmp_path / "out")
    assert "is incomplete: " in result.stderr
    whole, out = dict(KdumpFile(tmp_path / "whole").contents()), KdumpFile(tmp_path / "out")
    assert out.status & 0x8
    salvaged = dict(out.contents())
    assert len(whole) // 4 < len(salvaged) < len(whole)
    assert [pfn for pfn, page in salvaged.items() if whole[pfn] != page] == []


def test_kdump_to_elf_and_back(vmcore, level1, reference, tmp_path):
    harness.run_ok("-E", "-d", "31", level1["lzo"], tmp_path / "elf")
    harness.run_ok("-E", "-d", "31", vmcore, tmp_path / "straight")
    assert digest(tmp_path / "elf") == digest(tmp_path / "straight")
    harness.run_ok("-d", "31", tmp_path / "elf", tmp_path / "kdump")
    assert digest(tmp_path / "kdump") == digest(reference)


def piped(*command, exit_code: int = 0, **options) -> subprocess.CompletedProcess[bytes]:
    """Run a command with something on its standard input."""
    result = subprocess.run(command, capture_output=True, timeout=120, check=False, cwd=harness.REPOSITORY, **options)
    assert result.returncode == exit_code, result.stderr
    return result


@pytest.fixture(scope="module")
def flat(vmcore, work):
    """Flattened dumps at level 31, from three processes side by side; kdump-compressed and ELF."""
    paths = {"kdump": work / "flat-kdump", "elf": work / "flat-elf"}
    for option, path in zip(("-l", "-E"), paths.values(), strict=True):
        with open(path, "wb") as stdout:
            harness.run_ok("-F", option, "-d", "31", "--num-threads", "3", vmcore, stdout=stdout)
    return paths


@pytest.mark.parametrize("form", ["kdump", "elf"])
def test_flattened_output_has_each_byte_once(form, flat):
    data = flat[form].read_bytes()
    assert data[:16] == b"makedumpfile".ljust(16, b"\0")
    at, taken = 4096, []
    while data[at] < 0x80:
        offset, size = struct.unpack_from(">qq", data, at)
        assert size > 0
        taken.append((offset, offset + size))
        at += 16 + size
    assert data[at:] == b"\xff" * 16
    taken.sort()
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(taken))


@pytest.mark.parametrize("form", ["kdump", "elf"])
def test_rearranged(form, flat, vmcore, reference, tmp_path):
    paths = {"npdump": tmp_path / "npdump", "tool": tmp_path / "tool"}
    with open(flat[form], "rb") as stdin:
        piped(*harness.npdump_command(), "-R", paths["npdump"], stdin=stdin)
    with open(flat[form], "rb") as stdin:
        piped(sys.executable, "-S", TOOL, paths["tool"], stdin=stdin)
    assert paths["npdump"].read_bytes() == paths["tool"].read_bytes()
    assert paths["npdump"].stat().st_mode & 0o777 == 0o600
    assert not problems(paths["npdump"])
    harness.run_ok(*(["-E"] if form == "elf" else ["-l"]), "-d", "31", vmcore, tmp_path / "straight")
    assert digest(paths["npdump"]) == digest(tmp_path / "straight")


@pytest.mark.parametrize("form", ["kdump", "elf"])
def test_flattened_input(form, flat, reference, tmp_path):
    """Read as it is, without being rearranged first."""
    harness.run_ok("-l", "-d", "31", flat[form], tmp_path / "out")
    assert digest(tmp_path / "out") == digest(reference)


@pytest.fixture(scope="module")
def packed(vmcore, work):
    """As `flat`, kdump-compressed, in an lz4 frame."""
    pytest.importorskip("lz4")
    path = work / "flat.lz4"
    with open(path, "wb") as stdout:
        harness.run_ok("-F", "--lz4", "-l", "-d", "31", "--num-threads", "3", vmcore, stdout=stdout)
    return path


@pytest.mark.parametrize("reader", ["npdump -R", "the tool", "lz4 -d", "npdump"])
def test_lz4_stream(reader, packed, flat, reference, tool, tmp_path):
    out = tmp_path / "out"
    with open(packed, "rb") as stdin:
        if reader == "npdump -R":
            piped(*harness.npdump_command(), "-R", out, stdin=stdin)
        elif reader == "the tool":
            tool("lz4")
            piped(sys.executable, "-S", TOOL, out, stdin=stdin)
        elif reader == "lz4 -d":
            piped(tool("lz4"), "-dq", packed, out)
            assert out.stat().st_size > packed.stat().st_size
            assert out.stat().st_size == flat["kdump"].stat().st_size
        else:
            piped(*harness.npdump_command(), "-d", "31", "-", out, stdin=stdin)
    if reader == "lz4 -d":
        harness.run_ok("-d", "31", out, tmp_path / "whole")
        out = tmp_path / "whole"
    assert digest(out) == digest(reference)


@pytest.mark.parametrize("command", ["npdump", "the tool"])
def test_a_cut_lz4_stream_is_told(command, packed, tool, tmp_path):
    argv = [sys.executable, TOOL] if command == "the tool" and tool("lz4") else [*harness.npdump_command(), "-R"]
    result = piped(*argv, tmp_path / "out", input=packed.read_bytes()[:-100_000], exit_code=1)
    assert b"cut short" in result.stderr
    assert b"Traceback" not in result.stderr


def test_the_tool_without_lz4_says_what_to_do(packed, tmp_path):
    with open(packed, "rb") as stdin:
        result = piped(sys.executable, TOOL, tmp_path / "out", stdin=stdin, exit_code=1, env={"PATH": "/nonexistent"})
    assert b"lz4 -d" in result.stderr


def test_flattened_input_from_a_pipe(flat, reference, tmp_path):
    command = [*harness.npdump_command(), "-d", "31", "-", tmp_path / "out"]
    with subprocess.Popen(["cat", flat["kdump"]], stdout=subprocess.PIPE) as cat:
        result = piped(*command, stdin=cat.stdout)
    assert b"unpacked to a temporary file" in result.stdout
    assert digest(tmp_path / "out") == digest(reference)


@pytest.mark.parametrize("tool", ["npdump", "tool"])
def test_a_cut_stream_is_told(tool, flat, tmp_path):
    cut = flat["kdump"].read_bytes()[:-2_000_000]
    command = [sys.executable, TOOL] if tool == "tool" else [*harness.npdump_command(), "-R"]
    result = piped(*command, tmp_path / "out", input=cut, exit_code=1)
    assert b"cut short" in result.stderr
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize("form", ["kdump", "elf"])
def test_what_came_of_a_cut_stream_does_not_look_whole(form, flat, tmp_path):
    """Its writer couldn't go back to say so."""
    data = flat[form].read_bytes()
    piped(*harness.npdump_command(), "-R", tmp_path / "whole", input=data)
    piped(*harness.npdump_command(), "-R", tmp_path / "out", input=data[: len(data) * 2 // 3], exit_code=1)
    whole, cut = open_dump(tmp_path / "whole"), open_dump(tmp_path / "out")
    mark = 1 if form == "elf" else 8
    assert (whole.status & mark, cut.status) == (0, whole.status | mark)
    start = 4096 if form == "kdump" else 64
    assert cut.data[start : 1 << 16] == whole.data[start : 1 << 16]
    damaged = data[: len(data) // 2] + b"\x80" * (len(data) // 2)
    piped(*harness.npdump_command(), "-f", "-R", tmp_path / "out", input=damaged, exit_code=1)
    assert open_dump(tmp_path / "out").status == whole.status | mark
    piped(*harness.npdump_command(), "-f", "-R", tmp_path / "out", input=data[:4200], exit_code=1)


@pytest.mark.parametrize("n", [2, 5])
def test_split_and_reassembled(n, vmcore, reference, tmp_path):
    parts = [tmp_path / f"part{i}" for i in range(n)]
    harness.run_ok("--split", "-l", "-d", "31", vmcore, *parts)
    heads = {part.read_bytes()[:464] for part in parts}
    assert len(heads) == 1
    fields = [KdumpFile(part).fields for part in parts]
    assert all(one["start_pfn_64"] % 64 == 0 for one in fields)
    assert [one["start_pfn_64"] for one in fields[1:]] == [one["end_pfn_64"] for one in fields[:-1]]
    kept = KdumpFile(parts[0]).bitmap2
    counts = [int(kept[one["start_pfn_64"] : one["end_pfn_64"]].sum()) for one in fields]
    assert max(counts) - min(counts) <= 128
    harness.run_ok("--reassemble", *reversed(parts), tmp_path / "whole")
    # Parts share nothing with each other.
    harness.run_ok("--no-share", "--reassemble", *reversed(parts), tmp_path / "unshared")
    harness.run_ok("--no-share", "-l", "-d", "31", vmcore, tmp_path / "straight")
    assert (tmp_path / "unshared").read_bytes() == (tmp_path / "straight").read_bytes()
    assert digest(tmp_path / "whole") == digest(tmp_path / "straight")
    harness.run_ok("-z", "-d", "31", *parts, tmp_path / "filtered")
    assert digest(tmp_path / "filtered") == digest(reference)
    result = harness.run("--reassemble", *parts[1:], tmp_path / "lacking")
    assert result.returncode == 1
    assert "missing" in result.stderr or "two parts" in result.stderr
    assert not (tmp_path / "lacking").exists()


def test_each_part_is_a_file_of_its_own(vmcore, tmp_path):
    (tmp_path / "link").symlink_to("part1")
    for second in ("part1", "link"):
        result = harness.run("-f", "--split", "-l", "-d", "31", vmcore, tmp_path / "part1", tmp_path / second)
        assert result.returncode == 1
        assert "another part" in result.stderr
        assert not (tmp_path / "part1").exists()


def test_limit_and_lists_of_levels(vmcore, reference, tmp_path):
    limit = reference.stat().st_size + 1000
    harness.run_ok("-d", "0,31", "-L", str(limit), vmcore, tmp_path / "second")
    assert digest(tmp_path / "second") == digest(reference)
    result = harness.run("-l", "-d", "0,1", "-L", "8M", vmcore, tmp_path / "cut")
    assert result.returncode == 1
    assert (tmp_path / "cut").stat().st_size <= 8 << 20
    cut = KdumpFile(tmp_path / "cut")
    assert cut.status & 0x8
    result = harness.run_ok("-d", "1", tmp_path / "cut", tmp_path / "saved")
    assert "pages were lost" in result.stderr
    saved = KdumpFile(tmp_path / "saved")
    assert saved.status & 0x8
    there = [int(pfn) for pfn in cut.pfns if not cut.is_lost(pfn)]
    assert saved.pfns.tolist() == there
    assert all(saved.page(pfn) == cut.page(pfn) for pfn in there[::97])


def info(*paths) -> dict:
    """What `npdump info` says of a dump."""
    return json.loads(harness.run_ok("info", "--json", *paths).stdout)


def test_info_tells_what_a_dump_lacks(vmcore, tmp_path):
    parts = [tmp_path / f"part{i}" for i in range(3)]
    harness.run_ok("--split", "-l", "-d", "31", vmcore, *parts)
    dumps = [KdumpFile(part) for part in parts]
    kept = [int(dump.bitmap2[dump.fields["start_pfn_64"] : dump.fields["end_pfn_64"]].sum()) for dump in dumps]
    whole = info(*parts)
    assert whole["n_data"] == sum(kept)
    assert whole["n_elsewhere"] == whole["n_lost"] == 0
    assert len(whole["missing"]) == 1
    some = info(parts[2], parts[0])
    assert (some["n_data"], some["n_elsewhere"]) == (kept[0] + kept[2], kept[1])
    start, stop = dumps[1].fields["start_pfn_64"], dumps[1].fields["end_pfn_64"]
    assert f"{start:#x} to {stop:#x}" in some["missing"][-1]
    one = harness.run_ok("info", parts[0]).stdout
    assert f"{kept[1] + kept[2]} pages in other parts" in one

    assert harness.run("-d", "0", "-L", "8M", vmcore, tmp_path / "cut").returncode == 1
    cut = KdumpFile(tmp_path / "cut")
    n_lost = sum(cut.is_lost(pfn) for pfn in cut.pfns.tolist())
    found = info(tmp_path / "cut")
    assert (found["n_lost"], found["n_data"]) == (n_lost, len(cut.pfns) - n_lost)
    assert any(f"{n_lost} pages, which were lost" in text for text in found["missing"])


@pytest.fixture(scope="module")
def makedumpfile():
    """Upstream's program."""
    path = peers.makedumpfile_for(RELEASE)
    return lambda *args, **kwargs: peers.run_makedumpfile(path, *args, **kwargs)


def test_makedumpfile_reads_what_npdump_wrote(makedumpfile, vmcore, level1, reference, tmp_path):
    parts = [tmp_path / name for name in ("a", "b", "c")]
    harness.run_ok("--split", "-l", "-d", "31", vmcore, *parts)
    makedumpfile("--reassemble", *parts, tmp_path / "whole")
    makedumpfile("-c", "-d", "31", level1["lzo"], tmp_path / "refiltered")
    for name in ("whole", "refiltered"):
        assert digest(tmp_path / name) == digest(reference)


def test_npdump_reads_what_makedumpfile_wrote(makedumpfile, vmcore, reference, tmp_path):
    parts = [tmp_path / name for name in ("a", "b", "c")]
    makedumpfile("--split", "--splitblock-size", "65536", "-l", "-d", "31", vmcore, *parts)
    harness.run_ok("--reassemble", *parts, tmp_path / "whole")
    makedumpfile("-c", "-d", "1", vmcore, tmp_path / "level1")
    harness.run_ok("-c", "-d", "31", tmp_path / "level1", tmp_path / "refiltered")
    makedumpfile("-E", "-d", "31", vmcore, tmp_path / "elf")
    harness.run_ok("-l", "-d", "31", tmp_path / "elf", tmp_path / "from-elf")
    for name in ("whole", "refiltered", "from-elf"):
        assert digest(tmp_path / name) == digest(reference)
