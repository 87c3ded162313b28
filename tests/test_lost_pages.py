# SPDX-License-Identifier: GPL-2.0-or-later
"""A page that can't be had is lost alone: it's said, counted, and the rest of the dump is whole."""

from __future__ import annotations

import shutil

import pytest

from tests import harness
from tests.builders.kernels import KERNELS
from tests.builders.vmcore import Description, build
from tests.readers import open_dump

MIB = 1 << 20
LOST = (3, 700, 701)
"""Which of the pages, of those that are compressed."""


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A dump with LZO, three of whose pages don't uncompress; the same whole; the page frames of the three."""
    folder = tmp_path_factory.mktemp("lost")
    build(folder / "vmcore", Description(kernel=KERNELS["6.12"], ram=[(MIB, 24 * MIB)], fill=1))
    harness.run_ok("-l", "-d", "1", folder / "vmcore", folder / "whole")
    shutil.copy(folder / "whole", folder / "damaged")
    dump = open_dump(folder / "whole")
    compressed = [i for i, descriptor in enumerate(dump.descriptors) if 64 < descriptor["size"] < 4096]
    chosen = [compressed[i] for i in LOST]
    with open(folder / "damaged", "r+b") as file:
        for i in chosen:
            file.seek(int(dump.descriptors[i]["offset"]) + 2)
            file.write(b"\xff" * 40)
    return folder / "damaged", folder / "whole", [int(dump.pfns[i]) for i in chosen]


@pytest.mark.parametrize("n_threads", ["1", "3"])
@pytest.mark.parametrize("form", ["-z", "-d 0"])
def test_lost_pages_are_told_and_the_others_are_whole(damaged, tmp_path, form, n_threads):
    path, whole, pfns = damaged
    options = (*form.split(), "--num-threads", n_threads, "--message-level", "4")
    result = harness.run(*options, path, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert [f"{pfn:#x}" in line for pfn, line in zip(pfns, lines, strict=False)] == [True] * len(pfns)
    assert len(lines) == len(pfns) + 1
    assert lines[-1].startswith(f"npdump: warning: {len(pfns)} pages could not be had")
    ours, theirs = open_dump(tmp_path / "out"), open_dump(whole)
    assert (ours.kept == theirs.kept).all()
    assert [pfn for pfn in ours.kept.tolist() if ours.is_lost(pfn)] == pfns
    assert [pfn for pfn in ours.kept.tolist() if pfn not in pfns and ours.page(pfn) != theirs.page(pfn)] == []
    assert ours.status != theirs.status, "the header says that it is incomplete"


def test_lost_pages_are_zero_in_an_elf_dump(damaged, tmp_path):
    path, whole, pfns = damaged
    result = harness.run("-E", "-d", "1", "--message-level", "4", path, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert f"{len(pfns)} pages could not be had" in result.stderr
    ours, theirs = open_dump(tmp_path / "out"), open_dump(whole)
    assert [pfn for pfn in theirs.kept.tolist() if ours.page(pfn) != theirs.page(pfn)] == pfns
    assert all(ours.page(pfn) == bytes(4096) for pfn in pfns)
