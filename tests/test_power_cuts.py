# SPDX-License-Identifier: GPL-2.0-or-later
"""``--sync``: what a disk has when the power goes is no dump, or says that it's incomplete, or is whole.

A disk has all that was written before the last fsync(2) that came back, and of what was written after it any part.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, NamedTuple

import pytest

import npdump
from npdump.cli.main import main
from tests.builders.kernels import KERNELS
from tests.builders.pages import Block
from tests.builders.vmcore import Description, build
from tests.faults.judge import state_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

N_CUTS = 15


class Write(NamedTuple):
    """Bytes at a place."""

    offset: int
    data: bytes


class Disk:
    """What was written to the file of the sink, in order; None is an fsync that came back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[Write | None] = []
        self._chance = random.Random(1)
        pwrite, copy = os.pwrite, os.copy_file_range

        def noted_pwrite(fd: int, data: bytes, offset: int) -> int:
            n = pwrite(fd, data, offset)
            self.events.append(Write(offset, bytes(data[:n])))
            return n

        def noted_copy(source: int, fd: int, count: int, offset_src: int, offset_dst: int) -> int:
            n = copy(source, fd, count, offset_src, offset_dst)
            self.events.append(Write(offset_dst, os.pread(source, n, offset_src)))
            return n

        def noted_fsync(fd: int) -> None:
            self.events.append(None)  # the disk itself needn't be waited for

        monkeypatch.setattr(os, "pwrite", noted_pwrite)
        monkeypatch.setattr(os, "copy_file_range", noted_copy)
        monkeypatch.setattr(os, "fsync", noted_fsync)

    def after_cuts(self, path: Path, n: int) -> Iterator[str]:
        """Cut the power at so many moments, from the first one to the last; yield what there is then."""
        chance = self._chance
        for cut in sorted({*chance.sample(range(len(self.events) + 1), min(n, len(self.events))), len(self.events)}):
            safe = max((at for at in range(cut) if self.events[at] is None), default=0)
            with open(path, "wb") as file:
                for at, event in enumerate(self.events[:cut]):
                    if event is not None and (at < safe or chance.random() < 0.5):
                        file.seek(event.offset)
                        file.write(event.data)
            yield state_of(path)


@pytest.fixture(scope="module")
def vmcore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cuts") / "vmcore"
    free = [Block(0x800, "free", 9, 2)]
    build(path, Description(ram=[(1 << 20, 16 << 20)], kernel=KERNELS["6.12"], blocks=free, fill=2))
    return path


@pytest.mark.parametrize("options", [["-l"], ["-c", "--num-threads", "2"], ["-E"]], ids=["lzo", "threads", "elf"])
def test_no_cut_leaves_what_looks_whole_and_is_not(vmcore, tmp_path, monkeypatch, options) -> None:
    disk = Disk(monkeypatch)
    out = tmp_path / "out"
    assert main(["--sync", "-d31", *options, str(vmcore), str(out)]) == 0
    whole = state_of(out)
    assert whole.startswith("whole")
    states = list(disk.after_cuts(tmp_path / "cut", N_CUTS))
    assert {state for state in states if state.startswith("whole")} <= {whole}
    assert states[-1] == whole
    assert any(state == "incomplete" for state in states)


def test_without_it_a_cut_may(vmcore, tmp_path, monkeypatch) -> None:
    """The test itself: this is what the fsync before the last write of the header is for."""
    disk = Disk(monkeypatch)
    assert main(["--no-sync", "-d31", str(vmcore), str(tmp_path / "out")]) == 0
    assert None not in disk.events
    # An independent reader takes it for whole, and can't read it.
    with pytest.raises(Exception, match=r"descriptor|page|uncompress"):
        [list(disk.after_cuts(tmp_path / "cut", 0)) for _ in range(20)]


def test_the_name_of_a_new_file_is_on_the_disk_too(vmcore, tmp_path, monkeypatch) -> None:
    synced = []
    replace = os.replace

    def noted_replace(old: str, new: str) -> None:
        synced.append("renamed")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    monkeypatch.setattr(os, "replace", noted_replace)
    out = tmp_path / "out"
    out.write_bytes(b"old")
    with npdump.open(vmcore) as dump:
        dump.write(out, level=31, force=True, sync=True)
    assert synced == [f"{out}.part", f"{out}.part", "renamed", str(tmp_path)]


def test_by_default_only_the_capture_kernel_waits(vmcore, tmp_path, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(os, "fsync", calls.append)
    assert main(["-d31", str(vmcore), str(tmp_path / "out")]) == 0
    assert not calls
    monkeypatch.setattr("npdump.cli.outputs.is_in_proc", lambda path: True)
    assert main(["-d31", str(vmcore), str(tmp_path / "out2")]) == 0
    assert calls
