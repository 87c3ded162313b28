# SPDX-License-Identifier: GPL-2.0-or-later
"""The output does not depend on how many workers make it, nor on how many live to see it."""

from __future__ import annotations

import re
import sys

import pytest

from tests import harness
from tests.builders.kernels import KERNELS
from tests.builders.vmcore import Description, build
from tests.readers import open_dump
from tests.readers.validate import problems

MIB = 1 << 20
TWO = ("--num-threads", "2")


@pytest.fixture(scope="module")
def vmcore(tmp_path_factory):
    """Two dozen batches of pages, none of which is like another."""
    path = tmp_path_factory.mktemp("workers") / "vmcore"
    build(path, Description(kernel=KERNELS["6.12"], ram=[(MIB, 48 * MIB)], fill=1))
    return path


@pytest.mark.parametrize("form", ["raw", "elf"])
def test_uncompressed_pages_survive_workers(vmcore, tmp_path, form):
    """Workers hold batches until each has its place: none may be overwritten by the next one's pages.

    At level 0 whole batches are stored as they are read, which is where that once went wrong.
    """
    outputs = []
    for n_workers in ("1", "2", "4"):
        output = tmp_path / n_workers
        options = ["-E"] if form == "elf" else []
        harness.run_ok(*options, "-d", "0", "-b", "2", "--num-threads", n_workers, vmcore, output)
        outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]


def run_dying(when: str, *arguments, **options):
    """Run npdump with workers that die; see dying.py. One that waits for ever is ended after a minute."""
    if not harness.is_npdump():
        pytest.skip("only npdump's own workers can be made to die")
    command = [sys.executable, str(harness.TESTS / "dying.py"), when]
    return harness.run(*arguments, command=command, timeout=60, **options)


@pytest.mark.parametrize(
    ("when", "n_dead", "how"),
    [
        ("encoding", 1, "was killed by SIGKILL"),
        ("writing", 1, "was killed by SIGKILL"),
        ("all", 2, "was killed by SIGKILL"),
        ("memory", 2, "ended with exit code 1"),
    ],
)
def test_what_dead_workers_had_is_done_over(vmcore, tmp_path, when, n_dead, how):
    """Other workers do it, or the first process if none is left; nobody waits for the dead."""
    options = ("-l", "-d", "0", "--message-level", "4")
    harness.run_ok(*options, "--num-threads", "1", vmcore, tmp_path / "undisturbed")
    result = run_dying(when, *options, *TWO, vmcore, tmp_path / "disturbed")
    assert result.returncode == 0, result.stderr
    warnings = result.stderr.splitlines()
    assert len(warnings) == n_dead
    assert all(line.startswith(f"npdump: warning: a worker {how}") for line in warnings)
    assert (tmp_path / "disturbed").read_bytes() == (tmp_path / "undisturbed").read_bytes()


@pytest.mark.parametrize("when", ["longer", "all-longer"])
def test_batches_done_over_may_become_longer(vmcore, tmp_path, when):
    """Some compressors don't always give the same bytes; the next batch must not be overwritten."""
    options = ("-l", "-d", "0", "--message-level", "4")
    harness.run_ok(*options, "--num-threads", "1", vmcore, tmp_path / "undisturbed")
    result = run_dying(when, *options, *TWO, vmcore, tmp_path / "disturbed")
    assert result.returncode == 0, result.stderr
    ours, theirs = open_dump(tmp_path / "disturbed"), open_dump(tmp_path / "undisturbed")
    assert (ours.kept == theirs.kept).all()
    assert [pfn for pfn in ours.kept.tolist() if ours.page(pfn) != theirs.page(pfn)] == []
    assert problems(tmp_path / "disturbed") == []


@pytest.mark.parametrize("when", ["encoding", "writing", "all"])
def test_a_stream_ends_with_a_dead_worker(vmcore, tmp_path, when):
    """What went down a pipe can't be written again."""
    with open(tmp_path / "stream", "wb") as stream:
        result = run_dying(when, "-F", "-l", "-d", "0", "--message-level", "4", *TWO, vmcore, stdout=stream)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("npdump: a worker was killed by SIGKILL")


@pytest.mark.parametrize("n_workers", ["1", "2"])
def test_steps_are_told_once_each(vmcore, tmp_path, n_workers):
    """At message level debug one sees where the time goes, with workers too."""
    options = ("-c", "-d", "0", "--num-threads", n_workers)
    result = harness.run_ok(*options, "--message-level", "8", vmcore, tmp_path / "out")
    steps = [(name.strip(), float(seconds)) for name, seconds in re.findall(r"STEP \[(.*?)\] : (\S+) s", result.stdout)]
    names = ["Copying data", "Reading and comparing", "Compressing", "Writing", "Excluding unnecessary pages"]
    assert sorted(name for name, _ in steps) == sorted(names)
    # What nobody measured would be exactly nothing.
    assert [name for name, seconds in steps if seconds <= 0] == []
