# SPDX-License-Identifier: GPL-2.0-or-later
"""The distilled vmcores: what they expand to is what their references were made from."""

from __future__ import annotations

import hashlib
import io
import lzma
import struct
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests import harness
from tests.fixtures import distill, expand
from tests.harness import FIXTURES, Reference

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Known:
    """What readelf and strings said about the original vmcore."""

    release: str
    nbytes: int
    phoff: int
    n_loads: int
    first_load: tuple[int, int, int]
    n_cpus: int
    n_levels: int = 4
    panicked: bool = True


KNOWN = {
    "x86_64-5.10": Known("5.10.0-32-cloud-amd64", 202407936, 64, 3, (0xFFFFFFFF9CA00000, 0x7A00000, 0x222C000), 1),
    "x86_64-6.1": Known("6.1.0-56-cloud-amd64", 209367040, 64, 4, (0xFFFFFFFF93400000, 0x8A00000, 0x2830000), 2),
    "x86_64-6.12": Known("6.12.95+deb12-cloud-amd64", 212910080, 64, 3, (0xFFFFFFFF98600000, 0x9000000, 0x2C30000), 1),
    "x86_64-7.2": Known("7.2.13+deb14-cloud-amd64", 252755968, 64, 3, (0xFFFFFFFFAAE00000, 0xAE00000, 0x3230000), 1),
    "x86_64-6.1-la57": Known(
        "6.1.0-56-cloud-amd64", 208715776, 64, 3, (0xFFFFFFFFB3C00000, 0xAC00000, 0x2830000), 1, n_levels=5
    ),
    "x86_64-6.1-qemu": Known("6.1.0-56-cloud-amd64", 268702947, 192, 3, (0, 0, 0x8000000), 2, panicked=False),
    "x86_64-6.12-qemu-paging": Known(
        "6.12.95+deb12-cloud-amd64", 268716019, 192, 251, (0xFFFF8C3500000000, 0, 0xFFDA000), 1, panicked=False
    ),
}


@pytest.fixture(scope="module", params=sorted(KNOWN))
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def vmcore(name: str, distilled) -> Path:
    return distilled(name)


@pytest.fixture(scope="module")
def core(vmcore: Path) -> distill.Vmcore:
    return distill.Vmcore(str(vmcore))


@pytest.fixture(scope="module")
def reference(name: str) -> Reference:
    return harness.reference(name)


def test_every_distilled_file_is_known() -> None:
    assert expand.names() == sorted(KNOWN)
    assert sum(path.stat().st_size for path in FIXTURES.iterdir() if path.is_file()) < 8 << 20


def test_the_layout_is_that_of_the_original(name: str, vmcore: Path, core: distill.Vmcore) -> None:
    known = KNOWN[name]
    with vmcore.open("rb") as file:
        head = file.read(1 << 20)
    assert vmcore.stat().st_size == known.nbytes
    phoff, phnum = struct.unpack_from("<Q", head, 32)[0], struct.unpack_from("<H", head, 56)[0]
    headers = [struct.unpack_from("<IIQQQQQQ", head, phoff + 56 * i) for i in range(phnum)]
    loads = [header for header in headers if header[0] == 1]
    assert (phoff, len(loads), phnum) == (known.phoff, known.n_loads, known.n_loads + 1)
    assert (loads[0][3], loads[0][4], loads[0][5]) == known.first_load
    assert core.info["OSRELEASE"] == known.release
    assert core.n_levels == known.n_levels
    assert sum(note == b"CORE" for note, _ in core.notes) == known.n_cpus


def test_what_decides_is_found_by_walking_the_expanded_file(name: str, core: distill.Vmcore) -> None:
    with lzma.open(FIXTURES / f"{name}.distilled") as stream:
        archive = np.load(io.BytesIO(stream.read()))
    sections, memmap = distill.memmap_pfns(core)
    assert archive["memmap_pfn"].tolist() == [pfn for pfn in memmap if core.page(pfn) is not None]
    assert archive["table_pfn"].tolist() == distill.page_table_pfns(core)
    elsewhere = {*archive["memmap_pfn"].tolist(), *archive["table_pfn"].tolist()}
    data = {pfn for pfn in sections + distill.kernel_data_pfns(core) if core.page(pfn) is not None}
    assert data - elsewhere <= set(archive["data_pfn"].tolist())
    utsname = core.read(core.symbol("init_uts_ns") + int(core.info.get("OFFSET(uts_namespace.name)", 4)), 390)
    assert utsname[:6] == b"Linux\0"
    assert utsname[130:195].rstrip(b"\0").decode() == KNOWN[name].release


def test_the_kernel_log_is_the_original_one(name: str, core: distill.Vmcore) -> None:
    ring = core.pointer(core.symbol("prb"))
    text = ring + core.offset("printk_ringbuffer.text_data_ring")
    n_bytes = 1 << (core.pointer(text + core.offset("prb_data_ring.size_bits")) & 0xFFFFFFFF)
    log = core.read(core.pointer(text + core.offset("prb_data_ring.data")), n_bytes)
    assert f"Linux version {KNOWN[name].release}".encode() in log
    assert (b"Kernel panic - not syncing: sysrq triggered crash" in log) == KNOWN[name].panicked


@pytest.mark.parametrize("level", [0, 1, 31])
def test_the_pages_are_those_that_makedumpfile_kept(core: distill.Vmcore, reference: Reference, level: int) -> None:
    content = hashlib.sha256()
    for pfn in np.flatnonzero(reference.kept(level)).tolist():
        content.update(struct.pack("<Q", pfn) + core.page(pfn).tobytes())
    assert content.hexdigest() == reference.levels[level]["content"]


def test_levels_keep_what_their_bits_leave(reference: Reference) -> None:
    kept = [reference.kept(level) for level in range(32)]
    for level, pages in enumerate(kept):
        digest = hashlib.sha256(np.flatnonzero(pages).astype("<u8").tobytes()).hexdigest()
        assert (int(pages.sum()), digest) == (reference.levels[level]["pages"], reference.levels[level]["bitmap2"])
        assert not (pages & ~reference.bitmap1).any(), f"level {level} keeps what is not RAM"
        # Zero pages stay in a kdump-compressed file; to leave out all cache pages is to leave out the non-private too.
        assert (pages == kept[level & ~1]).all()
        assert level & 4 == 0 or (pages == kept[level | 2]).all()
        # What two bits leave out is what each of them leaves out: the classes don't depend on the level.
        for bit in (2, 4, 8, 16):
            assert (pages == kept[0]).all() if level < 2 else (kept[level | bit] == (pages & kept[bit])).all()
    fewer = [int(pages.sum()) for pages in (kept[0], kept[2], kept[4], kept[12], kept[28])]
    assert fewer == sorted(set(fewer), reverse=True), "a class of pages is missing in this vmcore"


def test_pages_of_rules_are_neither_zero_nor_alike() -> None:
    for rule in expand.RULES:
        pages = expand.rule_pages(np.arange(256, dtype=np.uint64), rule)
        assert pages.any(axis=1).all()
        assert len({page.tobytes() for page in pages}) == 256


def test_the_mixing_function_is_splitmix64() -> None:
    # The first outputs of SplitMix64 with seed 0 are published with Java's SplittableRandom and with xoshiro's code.
    outputs = expand.mix(np.arange(1, 4, dtype=np.uint64))
    assert [int(number) for number in outputs] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_expand_is_a_program(tmp_path: Path) -> None:
    program = [sys.executable, FIXTURES / "expand.py"]
    out = tmp_path / "vmcore"
    subprocess.run([*program, "x86_64-5.10", out], check=True, cwd=tmp_path)
    assert out.stat().st_size == KNOWN["x86_64-5.10"].nbytes
    assert out.stat().st_blocks * 512 < out.stat().st_size
    unknown = subprocess.run([*program, "x86_64-2.4", out], capture_output=True, text=True, check=False)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (1, 1)
    usage = subprocess.run(program, capture_output=True, text=True, check=False)
    assert usage.returncode == 1
    assert "x86_64-7.2" in usage.stderr
