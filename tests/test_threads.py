# SPDX-License-Identifier: GPL-2.0-or-later
"""The output does not depend on how many threads make it, and no error leaves a thread behind."""

from __future__ import annotations

import random
import re
import threading
import time
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from npdump.encode.job import Done, Encoded
from npdump.encode.threads import run
from npdump.errors import NoSpace, SinkError
from tests import harness
from tests.builders.kernels import KERNELS
from tests.builders.vmcore import Description, build
from tests.readers.validate import problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20
N_BATCHES = 40


class Disk:
    """What was written, and a limit; a job writes each batch's number as many times as its size says."""

    def __init__(self, limit: int | None = None) -> None:
        self.data = bytearray()
        self.limit = limit

    def write(self, offset: int, data: bytes) -> None:
        room = len(data) if self.limit is None else max(min(self.limit - offset, len(data)), 0)
        self.data.extend(bytes(max(offset + room - len(self.data), 0)))
        self.data[offset : offset + room] = data[:room]
        if room < len(data):
            error = NoSpace("the disk is full")
            error.n_written = room
            raise error


class FakeJob:
    """See `npdump.encode.job.Job`: batches are numbers, and ``fail`` may raise in any step."""

    def __init__(
        self, disk: Disk, fail: Callable[[str, int], None] = lambda step, number: None, can_rewrite: bool = True
    ) -> None:
        self.disk = disk
        self.fail = fail
        self.can_rewrite = can_rewrite
        self.finished: list[int] = []
        self.n_rooms = 0
        self.writers: set[int] = set()

    def make_worker(self) -> FakeWorker:
        return FakeWorker(self)

    def make_room(self) -> np.ndarray:
        self.n_rooms += 1
        return np.empty(300, np.uint8)

    def write(self, data: bytes, offset: int) -> None:
        self.fail("write", data[0])
        self.writers.add(threading.get_ident())
        self.disk.write(offset, bytes(data))

    def finish(self, batch: int, offset: int) -> Done:
        self.fail("finish", batch)
        assert self.disk.data[offset] == batch
        self.finished.append(batch)
        return Done(1, 0, 0, size_of(batch))

    def finish_partial(self, batch: int, offset: int, n_written: int) -> Done:
        return Done(0, 0, 0, n_written)

    def truncate(self, offset: int) -> None:
        del self.disk.data[offset:]


class FakeWorker(NamedTuple):
    """See `npdump.encode.job.Worker`; what it looked up is in the room."""

    job: FakeJob

    def read(self, batch: int, room: np.ndarray) -> None:
        self.job.fail("read", batch)
        time.sleep(random.random() / 1000)
        room[:] = batch

    def look_up(self) -> None: ...

    def encode(self, room: np.ndarray) -> Encoded:
        batch = int(room[0])
        self.job.fail("encode", batch)
        time.sleep(random.random() / 1000)
        return Encoded(room[: size_of(batch)].data, batch)


def size_of(batch: int) -> int:
    return 100 + batch * 37 % 200


def expected(n_batches: int = N_BATCHES) -> bytes:
    return b"".join(bytes([batch]) * size_of(batch) for batch in range(n_batches))


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("can_rewrite", [True, False])
@pytest.mark.parametrize("n_threads", [0, 1, 2, 5, 16])
def test_batches_are_written_in_order_by_any_number_of_threads(n_threads, can_rewrite):
    """And where nothing can be written twice, by the calling thread alone."""
    job = FakeJob(Disk(), can_rewrite=can_rewrite)
    results = list(run(job, iter(range(N_BATCHES)), 0, n_threads))
    assert [done.nbytes for done in results] == [size_of(batch) for batch in range(N_BATCHES)]
    assert job.finished == list(range(N_BATCHES))
    assert bytes(job.disk.data) == expected()
    assert job.n_rooms <= max(2 * n_threads, 1)
    if not can_rewrite:
        assert job.writers == {threading.get_ident()}


@pytest.mark.parametrize("n_threads", [1, 4])
@pytest.mark.parametrize("step", ["read", "encode", "write", "finish"])
def test_batches_before_the_first_that_fails_are_finished(step, n_threads):
    """Of several failures the first one, in the order of the batches, is raised."""
    errors = {17: SinkError("first"), 18: SinkError("second"), 25: SinkError("third")}

    def fail(at: str, number: int) -> None:
        if at == step and number in errors:
            raise errors[number]

    job = FakeJob(Disk(), fail)
    with pytest.raises(SinkError, match="first"):
        list(run(job, iter(range(N_BATCHES)), 0, n_threads))
    assert job.finished == list(range(17))
    assert bytes(job.disk.data[: len(expected(17))]) == expected(17)


@pytest.mark.parametrize("n_threads", [1, 4])
def test_an_error_while_batches_are_listed_comes_after_those_before(n_threads):
    def batches() -> Iterator[int]:
        yield from range(9)
        raise SinkError("no more")

    job = FakeJob(Disk())
    with pytest.raises(SinkError, match="no more"):
        list(run(job, batches(), 0, n_threads))
    assert job.finished == list(range(9))


@pytest.mark.parametrize("n_threads", [1, 2, 4])
@pytest.mark.parametrize("limit", [0, 1, 1000, 2345, len(expected()) - 1])
def test_a_full_disk_holds_all_that_fits(limit, n_threads):
    """Batches after the one that doesn't fit may have taken its room: they give it back."""
    job = FakeJob(Disk(limit))
    results = []
    with pytest.raises(NoSpace):
        results.extend(run(job, iter(range(N_BATCHES)), 0, n_threads))
    assert bytes(job.disk.data) == expected()[:limit]
    n_whole = next(n for n in count() if len(expected(n + 1)) > limit)
    assert job.finished == list(range(n_whole))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_what_ends_the_caller_ends_all_threads(error):
    def consume() -> None:
        for done in run(FakeJob(Disk()), iter(range(N_BATCHES)), 0, 4):
            if done.nbytes == size_of(5):
                raise error

    with pytest.raises(type(error)):
        consume()


@pytest.fixture(scope="module")
def vmcore(tmp_path_factory):
    """Two dozen batches of pages, none of which is like another."""
    path = tmp_path_factory.mktemp("threads") / "vmcore"
    build(path, Description(kernel=KERNELS["6.12"], ram=[(MIB, 48 * MIB)], fill=1))
    return path


@pytest.mark.parametrize(
    "options", ["-d 0", "-E -d 0", "-l -d 1", "-z -d 31", "-p -d 0 --no-share", "-c --zlib-engine zlib"]
)
def test_outputs_are_the_same(vmcore, tmp_path, options):
    """At level 0 whole batches are stored as they are read: none may be overwritten by the next one's pages."""
    outputs = []
    for n_threads in ("1", "2", "4"):
        output = tmp_path / n_threads
        harness.run_ok(*options.split(), "-b", "2", "--num-threads", n_threads, vmcore, output)
        outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]
    assert "-E" in options or problems(tmp_path / "1") == []


@pytest.mark.parametrize("n_threads", ["1", "2"])
def test_steps_are_timed(vmcore, tmp_path, n_threads):
    """At message level debug one sees where the time goes, with threads too."""
    options = ("-c", "-d", "0", "--message-level", "8", "--num-threads", n_threads)
    result = harness.run_ok(*options, vmcore, tmp_path / "out")
    seconds = {name.strip(): float(text) for name, text in re.findall(r"STEP \[(.*?)\] : (\S+) s", result.stdout)}
    for name in ("Reading and comparing", "Compressing", "Writing"):
        assert 0 < seconds[name] < int(n_threads) * seconds["Copying data"]
