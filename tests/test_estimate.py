# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump estimate``: what it says is what a dump then is, and it reads little for it."""

import json
import random

import pytest

from tests import harness
from tests.builders.elf import Load, write_core
from tests.builders.memory import PAGE_SIZE, Memory

READ_SHARE = 0.03
SLACK_NPAGES = 32
"""A few pages of each kind are read however small the dump is."""


def estimated(*args):
    return json.loads(harness.run_ok("estimate", "--json", *args).stdout)


def written_nbytes(tmp_path, *args):
    harness.run_ok("-f", *args, tmp_path / "dump")
    return (tmp_path / "dump").stat().st_size


@pytest.mark.parametrize(
    ("name", "codec", "level"), [("x86_64-6.1", "-l", 1), ("x86_64-6.1", "-c", 31), ("x86_64-7.2", "-z", 31)]
)
def test_size_is_within_a_tenth_or_what_it_says(name, codec, level, distilled, tmp_path):
    vmcore = distilled(name)
    found = estimated(codec, "-d", str(level), vmcore)
    nbytes = written_nbytes(tmp_path, codec, "-d", str(level), vmcore)
    assert abs(found["nbytes"] - nbytes) <= max(nbytes / 10, 2 * found["error_nbytes"])
    assert found["error_nbytes"] < nbytes / 4


def test_a_dump_that_was_filtered_before(distilled, tmp_path):
    filtered = tmp_path / "filtered"
    harness.run_ok("-l", "-d", "1", distilled("x86_64-6.1"), filtered)
    nbytes = written_nbytes(tmp_path, "-l", "-d", "31", filtered)
    assert abs(estimated("-l", "-d", "31", filtered)["nbytes"] - nbytes) <= nbytes / 10


@pytest.fixture(scope="module")
def third_of_each(tmp_path_factory):
    """6,000 pages: zero pages, pages of noise, and the same pages once more, in no order."""
    rng = random.Random(7)
    n = 2000
    noise = [rng.randbytes(PAGE_SIZE) for _ in range(n)]
    pages = noise + noise + [bytes(PAGE_SIZE)] * n
    rng.shuffle(pages)
    memory = Memory()
    for pfn, page in enumerate(pages):
        memory.write(pfn * PAGE_SIZE, page)
    path = tmp_path_factory.mktemp("estimate") / "vmcore"
    write_core(path, memory, [Load(0, len(pages) * PAGE_SIZE)], b"")
    return path, n, len(pages)


def test_pages_stored_once_are_seen_though_a_sample_cannot_see_them(third_of_each, tmp_path):
    vmcore, n, n_all = third_of_each
    found = estimated("-d", "1", vmcore)
    assert (found["n_kept"], found["n_zero"]) == (n_all, n)
    # A table without eviction finds most of them, in the estimate as in the dump.
    assert found["n_shared"] == pytest.approx(n, rel=0.05)
    assert found["nbytes"] == pytest.approx(written_nbytes(tmp_path, "-d", "1", vmcore), rel=0.02)
    assert estimated("-d", "1", "--no-share", vmcore)["nbytes"] == pytest.approx(
        written_nbytes(tmp_path, "-d", "1", "--no-share", vmcore), rel=0.001
    )
    assert found["read_nbytes"] <= READ_SHARE * n_all * PAGE_SIZE + SLACK_NPAGES * PAGE_SIZE


def test_what_it_cannot_tell_is_refused(distilled):
    for option in ("-E", "-d1,31"):
        result = harness.run("estimate", option, distilled("x86_64-6.1"))
        assert result.returncode == 1
        assert "estimate: is of one level" in result.stderr


def test_words_for_people(distilled):
    lines = harness.run_ok("estimate", "-l", "-d", "31", distilled("x86_64-6.1")).stdout.splitlines()
    assert [line[:13].rstrip() for line in lines] == [
        "size", "pages kept", "of zeros", "stored once", "CPU time", "read for this",
    ]  # fmt: skip
