# SPDX-License-Identifier: GPL-2.0-or-later
"""The file behind an output: one run writes it, nobody else has hold of it, and it says what it is at any moment."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

import npdump
from npdump.errors import NoSpace, SinkError
from npdump.sinks.file import FileSink
from tests import harness
from tests.builders.kernels import KERNELS
from tests.builders.pages import Block
from tests.builders.vmcore import Description, build
from tests.readers import open_dump

if TYPE_CHECKING:
    from pathlib import Path

INCOMPLETE = 8
OTHER_USER = 12345
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="gives files to another user")


@pytest.fixture(scope="module")
def vmcore(tmp_path_factory) -> Path:
    """64 MiB, of which some is free."""
    path = tmp_path_factory.mktemp("sinks") / "vmcore"
    free = [Block(0x2000, "free", 10, 2)]
    build(path, Description(ram=[(1 << 20, 64 << 20)], kernel=KERNELS["6.12"], blocks=free, fill=4))
    return path


def test_a_new_file_is_ours_alone(tmp_path) -> None:
    sink = FileSink(str(tmp_path / "out"), force=False)
    sink.write(0, b"new")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600
    sink.close()
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"new"


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    sink = FileSink(str(out), force=True)
    sink.write(0, b"new")
    assert out.read_bytes() == b"old"
    sink.close()
    assert out.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out"]


def test_what_is_given_up_leaves_the_old_file(tmp_path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    sink = FileSink(str(out), force=True)
    sink.write(0, b"new")
    sink.discard()
    assert os.listdir(tmp_path) == ["out"]
    assert out.read_bytes() == b"old"


def test_a_name_that_is_kept_free(tmp_path) -> None:
    sink = FileSink(str(tmp_path / "log"), force=False, keep_away=True)
    sink.write(0, b"text")
    assert not (tmp_path / "log").exists()
    sink.close()
    assert (tmp_path / "log").read_bytes() == b"text"


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_second_run_is_refused(is_replaced, vmcore, tmp_path) -> None:
    out = tmp_path / "out"
    if is_replaced:
        out.write_bytes(b"old")
    sink = FileSink(str(out), force=is_replaced)
    refused = harness.run("-f", "-l", "-d31", vmcore, out)
    assert (refused.returncode, refused.stderr.count("another npdump is writing it")) == (1, 1)
    sink.write(0, b"first")
    sink.close()
    assert out.read_bytes() == b"first"
    harness.run_ok("-f", "-l", "-d31", vmcore, out)
    assert open_dump(out).status & INCOMPLETE == 0


def test_two_runs_at_once_never_leave_a_mixture(vmcore, tmp_path) -> None:
    command = [*harness.npdump_command(), "-f", "-d31", "--num-threads", "1", str(vmcore), str(tmp_path / "out")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": harness.REPOSITORY}
    for codecs in (("-l", "-c"), ("-c", "-l")):
        runs = [subprocess.Popen([*command[:-5], codec, *command[-5:]], **quiet) for codec in codecs]
        codes = [run.wait(60) for run in runs]
        assert 0 in codes
        dump = open_dump(tmp_path / "out")
        assert dump.status & INCOMPLETE == 0
        assert len(list(dump.contents())) == len(dump.kept)


def test_what_a_killed_run_left_is_no_hindrance(tmp_path) -> None:
    out, part = tmp_path / "out", tmp_path / "out.part"
    out.write_bytes(b"old")
    part.write_bytes(b"half")
    sink = FileSink(str(out), force=True)
    sink.write(0, b"new")
    sink.close()
    assert os.listdir(tmp_path) == ["out"]
    part.mkdir()
    with pytest.raises(SinkError, match=r"out\.part: is in the way"):
        FileSink(str(out), force=True)


def test_an_output_that_is_removed_or_replaced_meanwhile_is_an_error(tmp_path) -> None:
    out = tmp_path / "out"
    sink = FileSink(str(out), force=False)
    out.unlink()
    with pytest.raises(SinkError, match="was removed or replaced"):
        sink.close()
    sink = FileSink(str(out), force=False)
    out.unlink()
    out.write_bytes(b"another's")
    sink.discard()
    assert out.read_bytes() == b"another's"


def test_a_system_that_takes_nothing_is_not_asked_for_ever(tmp_path, monkeypatch) -> None:
    sink = FileSink(str(tmp_path / "out"), force=False)
    monkeypatch.setattr("os.pwrite", lambda fd, data, offset: 0)
    with pytest.raises(SinkError, match="takes no more"):
        sink.write(0, b"data")
    sink.discard()


def test_ones_own_link_is_followed(tmp_path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    sink = FileSink(str(tmp_path / "link"), force=True)
    sink.write(0, b"new")
    sink.close()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@needs_root
def test_the_link_of_another_user_is_not_followed(tmp_path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    os.lchown(tmp_path / "link", OTHER_USER, OTHER_USER)
    with pytest.raises(SinkError, match="belongs to another user"):
        FileSink(str(tmp_path / "link"), force=True)
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


@needs_root
def test_another_user_who_holds_the_file_sees_nothing(tmp_path) -> None:
    tmp_path.chmod(0o1777)
    out = tmp_path / "out"
    out.write_bytes(b"")
    out.chmod(0o666)
    os.chown(out, OTHER_USER, OTHER_USER)
    with open(out, "rb") as held:
        sink = FileSink(str(out), force=True)
        sink.write(0, b"secret")
        sink.close()
        assert held.read() == b""
    assert (out.stat().st_uid, out.stat().st_mode & 0o777) == (os.getuid(), 0o600)


def test_what_may_not_be_replaced_is_told_first(tmp_path, monkeypatch) -> None:
    tmp_path.chmod(0o1777)
    (tmp_path / "out").write_bytes(b"another's")
    monkeypatch.setattr(os, "geteuid", lambda: OTHER_USER)
    with pytest.raises(SinkError, match="belongs to another user"):
        FileSink(str(tmp_path / "out"), force=True)
    assert os.listdir(tmp_path) == ["out"]


def test_the_old_file_makes_room(vmcore, small_disk) -> None:
    out = small_disk(8) / "out"
    harness.run_ok("-l", "-d31", vmcore, out)
    first = out.stat()
    assert 4 << 20 < first.st_size < 8 << 20
    harness.run_ok("-f", "-l", "-d31", vmcore, out)
    assert out.stat().st_ino != first.st_ino
    assert open_dump(out).status & INCOMPLETE == 0
    assert os.listdir(out.parent) == ["out"]


def test_a_full_disk_leaves_what_fits_under_the_name(vmcore, small_disk) -> None:
    out = small_disk(4) / "out"
    out.write_bytes(b"old")
    result = harness.run("-f", "-l", "-d31", vmcore, out)
    assert result.returncode == 1
    assert os.listdir(out.parent) == ["out"]
    assert open_dump(out).status & INCOMPLETE


def test_a_limit_of_the_file_size_does_not_cost_the_old_file_early(tmp_path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    sink = FileSink(str(out), force=True, limit_nbytes=2)
    with pytest.raises(NoSpace):
        sink.write(0, b"new")
    assert out.read_bytes() == b"old"
    sink.discard()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("form", ["-l", "-E"])
def test_rearranging_that_is_killed_says_so(number, form, vmcore, tmp_path) -> None:
    command = harness.npdump_command()
    flat = subprocess.run(
        [*command, "-F", form, "-d31", vmcore],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        cwd=harness.REPOSITORY,
    ).stdout
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*command, "-R", out],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=harness.REPOSITORY,
    )
    process.stdin.write(flat[: len(flat) * 6 // 10])
    process.stdin.flush()
    # What was flushed is in the pipe, of which the reader leaves less than its buffers hold.
    while not out.exists() or out.stat().st_size < len(flat) // 3:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(30) != 0
    process.stdin.close()
    assert open_dump(out).status & (INCOMPLETE if form == "-l" else 1)


def test_a_pipe_that_is_not_blocking_is_waited_for(vmcore, tmp_path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    command = [*harness.npdump_command(), "-F", "-l", "-d31", vmcore]
    process = subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, cwd=harness.REPOSITORY)
    os.close(writer)
    with open(reader, "rb") as stream:
        flat = stream.read()
    process.stderr.close()
    assert process.wait(30) == 0
    subprocess.run(
        [sys.executable, "-m", "npdump", "-R", tmp_path / "out"],
        input=flat,
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=harness.REPOSITORY,
    )
    assert open_dump(tmp_path / "out").status & INCOMPLETE == 0


@pytest.mark.parametrize("left", [None, 0, 5, 1 << 17], ids=["all", "none", "a part of a page", "pages"])
def test_what_the_system_does_not_copy_is_copied_here(left, vmcore, tmp_path, monkeypatch) -> None:
    """copy_file_range(2) copies nothing between some file systems (EXDEV), or stops where it likes."""
    real, n_calls = os.copy_file_range, 0

    def copy(src, dst, count, offset_src, offset_dst):
        nonlocal n_calls
        n_calls += 1
        if left is None:
            return real(src, dst, count, offset_src, offset_dst)
        if not left or n_calls % 2 == 0:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(src, dst, min(left, count), offset_src, offset_dst)

    monkeypatch.setattr(os, "copy_file_range", copy)
    with npdump.open(vmcore) as dump:
        dump.write(tmp_path / "copied", level=1, format="elf")
    assert n_calls, "the system was asked"
    copied, whole = open_dump(tmp_path / "copied"), open_dump(vmcore)
    pfns = np.flatnonzero(copied.kept)
    assert len(pfns) > 1000
    assert all(copied.page(pfn) == whole.page(pfn) for pfn in pfns.tolist())
