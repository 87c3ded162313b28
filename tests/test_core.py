# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiled core refuses what doesn't fit: it never reads or writes outside of the buffers that it was given."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from npdump.core import CORE

PAGE = 4096
COPY = (0, 0, 0, 0, 0)
ROOM = PAGE + PAGE // 6 + 128

pytestmark = pytest.mark.skipif(CORE is None, reason="there is no compiled core")


def pages(n: int = 3) -> np.ndarray:
    """Pages that begin at a multiple of a page."""
    raw = np.ones((n + 1) * PAGE, np.uint8)
    skip = -raw.ctypes.data % PAGE
    return raw[skip : skip + n * PAGE].reshape(n, PAGE)


def i64(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def zeros(n: int, kind: Any) -> np.ndarray:
    return np.zeros(n, kind)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


GOOD: dict[str, Any] = {
    "digests": lambda: [PAGE, pages(), zeros(3, "u8")],
    "look_up": lambda: [i64(1, 2), i64(7, 8), zeros((8, 4), "i8"), zeros(2, "i8"), zeros(2, "i8")],
    "settle": lambda: [
        *(PAGE, pages(), i64(4, 5, 7), i64(1, 2, 3), pages(2), i64(1, 3)),
        *(i64(0, 1, 2), i64(-1, 3, 4), zeros(3, "i8")),
    ],
    "place": lambda: [
        *(10, 0, i64(1, 2, 3), i64(0, 2, 1), i64(-1, 3, 3)),
        *(np.array([False, False, True]), zeros((8, 4), "i8"), zeros((3, 3), "i8")),
    ],
    "compress": lambda: [PAGE, pages(), i64(0, 2), zeros(PAGE + ROOM, "u1"), zeros(2, "u4"), COPY],
    "uncompress": lambda: [
        *(PAGE, bytes(2 * PAGE), i64(0, PAGE), i64(PAGE, PAGE), pages(), i64(2, 0), zeros(2, "?"), COPY)
    ],
    "read_ranges": lambda: [-1, i64(0, 7), i64(4, 5), zeros(2 * PAGE, "u1"), PAGE, zeros(2, "u8")],
}
WRITTEN = {
    "digests": (2,),
    "look_up": (2, 3, 4),
    "settle": (6, 7, 8),
    "place": (6, 7),
    "compress": (3, 4),
    "uncompress": (4, 6),
    "read_ranges": (3, 5),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_fits_is_done(name: str) -> None:
    getattr(CORE, name)(*GOOD[name]())


@pytest.mark.parametrize("name", GOOD)
def test_arguments_of_another_kind_are_refused(name: str) -> None:
    """In each place: nothing, text, arrays of other items, of every second item, or that are not aligned."""
    function = getattr(CORE, name)
    for at, good in enumerate(GOOD[name]()):
        bad: list[Any] = [None, "text", [1], object(), 1.5]
        if isinstance(good, np.ndarray):
            bad += [5, good.astype("c16"), zeros(2 * good.size + 2, good.dtype)[::2]]
            if good.itemsize > 1:
                bad += [zeros(good.nbytes + 1, "u1")[1:].view(good.dtype), good.astype("u2")]
        for value in bad:
            arguments = GOOD[name]()
            arguments[at] = value
            with pytest.raises(ValueError, match=r"\w"):
                function(*arguments)
    for arguments in ([], GOOD[name]()[:-1], [*GOOD[name](), 1]):
        with pytest.raises(ValueError, match="number of arguments"):
            function(*arguments)


@pytest.mark.parametrize("name", GOOD)
def test_buffers_that_are_written_must_be_writable(name: str) -> None:
    for at in WRITTEN[name]:
        arguments = GOOD[name]()
        arguments[at] = read_only(arguments[at])
        with pytest.raises(ValueError, match="can be written"):
            getattr(CORE, name)(*arguments)


@pytest.mark.parametrize("name", GOOD)
def test_arrays_of_other_lengths_are_refused(name: str) -> None:
    for at, good in enumerate(GOOD[name]()):
        if not isinstance(good, np.ndarray) or good.shape[-1] == PAGE or (name, at) in {("place", 6), ("place", 7)}:
            continue
        arguments = GOOD[name]()
        arguments[at] = good[:-1]
        if name == "read_ranges" and at == 5:
            arguments[at] = zeros(3, "u8")
        with pytest.raises(ValueError, match=r"length|small|each page|slots|range"):
            getattr(CORE, name)(*arguments)


@pytest.mark.parametrize("size", [0, -4096, 63, 100, 1 << 40, 1 << 70])
@pytest.mark.parametrize("name", ["digests", "settle", "compress", "uncompress"])
def test_page_sizes_that_no_machine_has_are_refused(name: str, size: int) -> None:
    arguments = GOOD[name]()
    arguments[0] = size
    with pytest.raises(ValueError, match=r"page size|number"):
        getattr(CORE, name)(*arguments)


@pytest.mark.parametrize("row", [-1, 3, 1 << 40, -(1 << 63), (1 << 63) - 1, 1 << 52])
@pytest.mark.parametrize(("name", "at"), [("compress", 2), ("uncompress", 5), ("place", 3)])
def test_rows_out_of_range_are_refused(name: str, at: int, row: int) -> None:
    arguments = GOOD[name]()
    arguments[at][-1] = row
    with pytest.raises(ValueError, match="out of range"):
        getattr(CORE, name)(*arguments)


@pytest.mark.parametrize("slot", [8, 1 << 60, (1 << 63) - 1])
def test_slots_out_of_range_are_refused(slot: int) -> None:
    for at in range(3):
        arguments = GOOD["place"]()
        arguments[4][at] = slot
        with pytest.raises(ValueError, match="out of range"):
            CORE.place(*arguments)
    arguments = GOOD["place"]()
    arguments[4][2] = -1
    with pytest.raises(ValueError, match="out of range"):
        CORE.place(*arguments)


@pytest.mark.parametrize(
    ("start", "nbytes"), [(-1, 1), (2 * PAGE + 1, 0), (0, 2 * PAGE + 1), (1, -1), (1 << 62, 1 << 62), (PAGE, PAGE + 1)]
)
def test_stored_pages_out_of_the_data_are_refused(start: int, nbytes: int) -> None:
    arguments = GOOD["uncompress"]()
    arguments[2][1], arguments[3][1] = start, nbytes
    with pytest.raises(ValueError, match="out of range"):
        CORE.uncompress(*arguments)


def test_an_index_must_have_a_power_of_two_slots() -> None:
    for n in (0, 1, 3, 7):
        arguments = GOOD["look_up"]()
        arguments[2] = zeros((n, 4), "i8")
        with pytest.raises(ValueError, match="power of two"):
            CORE.look_up(*arguments)


def test_pages_are_settled_by_what_they_hold() -> None:
    """A page that differs from its original, or whose original isn't there, is stored; one without a key is not."""
    ours, others = pages(6), pages(2)
    ours[3, -1] = others[1, 0] = 9
    pfns, keys = i64(10, 11, 13, 14, 15, 19), i64(1, 1, 1, 1, 0, 1)
    originals, slots, rows = i64(-1, 10, 2, 10, -1, 3), i64(0, 1, 2, 3, -1, 5), zeros(6, "i8")
    assert CORE.settle(PAGE, ours, pfns, keys, others, i64(2, 3), slots, originals, rows) == 3
    assert rows[:3].tolist() == [0, 3, 5]
    assert originals.tolist() == [-1, 10, 2, -1, -1, -1]
    assert slots.tolist() == [0, 1, 2, -1, -1, -1]
    for wild in (12, 1 << 62, 0, -(1 << 63)):
        originals = np.full(6, wild, np.int64)
        assert CORE.settle(PAGE, ours, pfns, keys, others[:0], i64(), slots, originals, rows) == 5, "none is there"


def test_an_unknown_way_to_call_an_engine_does_nothing() -> None:
    arguments = GOOD["compress"]()
    arguments[-1] = (99, 0, 0, 0, 0)
    assert CORE.compress(*arguments) == 2 * PAGE, "pages stay as they are"
    arguments = GOOD["uncompress"]()
    arguments[-1] = (99, 0, 0, 0, 0)
    assert CORE.uncompress(*arguments) == 2, "none is good"


def test_ranges_are_read_up_to_the_first_that_is_not_whole(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    out, none = zeros(60, "u1"), zeros(0, "u8")
    with path.open("rb") as file:

        def read(offsets: np.ndarray, sizes: np.ndarray) -> int:
            n_read: int = CORE.read_ranges(file.fileno(), offsets, sizes, out, PAGE, none)
            return n_read

        assert read(i64(10, 50, 95, 0), i64(3, 7, 6, 1)) == 2
        assert read(i64(-1), i64(1)) == 0
        assert read(i64(10, 13, 16, 99), i64(3, 3, 2, 1)) == 4, "neighbours"
        assert out[:9].tolist() == [*range(10, 18), 99]
        assert read(i64(0, 98, 99), i64(1, 1, 2)) == 1, "the second ends too early"
        for sizes in (i64(40, 21), i64(40, -1), i64(40, (1 << 63) - 1)):
            with pytest.raises(ValueError, match="too small"):
                read(i64(0, 40), sizes)
            with pytest.raises(ValueError, match="too small"):
                read(i64(0, 0), sizes)
        read(i64(10, 50), i64(3, 7))
        assert out[:10].tolist() == [10, 11, 12, *range(50, 57)]
    assert CORE.read_ranges(-1, i64(0), i64(1), out, PAGE, none) == 0


def test_digests_are_made_of_what_was_read(tmp_path) -> None:
    """Of whole pages, however the file has them, and of no more than were read."""
    path, n = tmp_path / "file", 200
    data = np.random.default_rng(1).integers(0, 256, (n, PAGE), np.uint8)
    path.write_bytes(data.tobytes())
    out, keys, wanted = zeros((n, PAGE), "u1"), zeros(n, "u8"), zeros(n, "u8")
    with path.open("rb") as file:
        arguments = [file.fileno(), i64(0, 100, 110 * PAGE), i64(100, 110 * PAGE - 100, 90 * PAGE), out.reshape(-1)]
        assert CORE.read_ranges(*arguments, PAGE, keys) == 3
        CORE.digests(PAGE, data, wanted)
        assert (out == data).all()
        assert (keys == wanted).all()
        keys[:] = 1
        arguments[1][2] += PAGE
        assert CORE.read_ranges(*arguments, PAGE, keys) == 2, "the last range is not there as a whole"
        assert (keys[:110] == wanted[:110]).all()


def test_the_environment_does_without_the_core() -> None:
    for value, wanted in (("0", "True"), ("1", "False")):
        code = "from npdump.core import CORE; print(CORE is None)"
        environment = {**os.environ, "NPDUMP_CORE": value}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == wanted
