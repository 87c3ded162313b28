# SPDX-License-Identifier: GPL-2.0-or-later
"""Conformance of codecs: whatever engine does the work, by name; each one that is installed is tried.

A codec's engines are those of its module (``_ENGINES``): a new one is in this suite without a word here. What they make
is read by the system's own libraries as well (`tests.readers.codecs`), which share nothing with them.
"""

from __future__ import annotations

import importlib
import random
import sys
import tracemalloc
import zlib
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npdump import codecs
from npdump.codecs import _engines, raw
from npdump.core import CORE
from npdump.errors import CodecError, MissingDependency
from tests.readers import codecs as readers

if TYPE_CHECKING:
    import numpy.typing as npt

    U8 = npt.NDArray[np.uint8]

if sys.version_info < (3, 14):
    with suppress(ImportError):
        # It is the module that Python 3.14 has by this name.
        sys.modules["compression.zstd"] = importlib.import_module("backports.zstd")

PAGE_SIZES = (4096, 16384, 65536)
NAMES = [codec.name for codec in codecs.all_codecs() if codec.name != "raw"]
ENGINES = [(name, engine) for name in NAMES for engine in importlib.import_module(f"npdump.codecs.{name}")._ENGINES]
KNOWN = {
    ("lzo", "liblzo2"),
    ("lzo", "python-lzo"),
    ("snappy", "cramjam"),
    ("snappy", "libsnappy"),
    ("zlib", "isal"),
    ("zlib", "libdeflate"),
    ("zlib", "zlib"),
    ("zstd", "compression.zstd"),
    ("zstd", "libzstd"),
    ("zstd", "zstandard"),
}
BOMB_NBYTES = 64 << 20


def test_all_engines_are_tried() -> None:
    assert set(ENGINES) >= KNOWN


@pytest.fixture(autouse=True, params=["core", "python"])
def core(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is done by the compiled core, which calls the system's libraries, and by Python's modules."""
    if request.param == "python":
        for module in (_engines, raw):
            monkeypatch.setattr(module, "CORE", None)
    elif CORE is None:
        pytest.skip("there is no compiled core")


class Pages:
    """Pages of all kinds, of one size."""

    def __init__(self, size: int) -> None:
        noise = random.Random(size)
        text = (b"%d bottles of beer on the wall, " * 8) % tuple(range(8))
        kinds = {
            "zero": bytes(size),
            "one value": b"\x55" * size,
            "text": (text * (size // len(text) + 1))[:size],
            "noise": noise.randbytes(size),
            "half noise": noise.randbytes(size // 2).ljust(size, b"\0"),
            "pointers": np.arange(0xFFFF888000000000, 0xFFFF888000000000 + 64 * size, 512, np.uint64)[
                : size // 8
            ].tobytes(),
            "nearly zero": bytes(size - 1) + b"\1",
        }
        self.names = list(kinds)
        self.array: U8 = np.frombuffer(b"".join(kinds.values()), np.uint8).reshape(-1, size).copy()


@cache
def pages_of(size: int) -> Pages:
    return Pages(size)


def use_only(patch: pytest.MonkeyPatch, name: str, engine: str) -> Any:
    """The codec with one engine alone, for encoding and decoding; a skip that says how to get it where it isn't."""
    module = importlib.import_module(f"npdump.codecs.{name}")
    only = module._ENGINES[engine]
    try:
        only.load()
    except (ImportError, OSError) as error:
        pytest.skip(f"{engine}: {error}")
    patch.setattr(module, "_ENGINES", {engine: only})
    return module.CODEC


def encode(codec: Any, pages: U8, engine: str | None = None) -> list[bytes]:
    """Each page as it is stored."""
    data, sizes = np.empty(codecs.out_nbytes(*pages.shape), np.uint8), np.empty(len(pages), np.uint32)
    nbytes = codec.encoder(pages.shape[1], engine)(pages, np.arange(len(pages)), data, sizes)
    stops = np.cumsum(sizes.astype(np.int64)).tolist()
    assert nbytes == stops[-1]
    return [bytes(data[stop - size : stop]) for stop, size in zip(stops, sizes.tolist(), strict=True)]


def decode(codec: Any, stored: list[bytes], size: int) -> list[bytes]:
    """The pages; raises CodecError where one can't be had."""
    sizes = np.array([len(piece) for piece in stored], np.int64)
    pages = np.empty((len(stored), size), np.uint8)
    good = codec.decoder(size)(b"".join(stored), np.cumsum(sizes) - sizes, sizes, pages, np.arange(len(stored)))
    if not all(good):
        raise CodecError("a page can't be had")
    return [page.tobytes() for page in pages]


@pytest.mark.parametrize("size", PAGE_SIZES)
@pytest.mark.parametrize(("name", "engine"), ENGINES)
def test_round_trip(name: str, engine: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = use_only(monkeypatch, name, engine)
    pages = pages_of(size)
    stored = dict(zip(pages.names, encode(codec, pages.array, engine), strict=True))
    # A page that doesn't become smaller stays as it is: its size tells.
    assert stored["noise"] == pages.array[pages.names.index("noise")].tobytes()
    compressed = [kind for kind in pages.names if len(stored[kind]) < size]
    assert set(pages.names) - set(compressed) <= {"noise", "pointers"}
    assert len(stored["zero"]) < size // 16
    wanted = [pages.array[pages.names.index(kind)].tobytes() for kind in compressed]
    assert decode(codec, [stored[kind] for kind in compressed], size) == wanted
    if (lacking := readers.missing(codec.flag)) is None:
        assert [readers.decoder(codec.flag)(stored[kind], size) for kind in compressed] == wanted
    else:
        pytest.skip(f"read by npdump alone: {lacking}")


@pytest.mark.parametrize(("name", "engine"), ENGINES)
def test_some_rows_of_pages_that_are_read_only(name: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = use_only(monkeypatch, name, engine)
    pages = pages_of(4096).array.copy()
    whole = encode(codec, pages, engine)
    pages.flags.writeable = False
    rows = np.array([0, 2, 5])
    assert encode(codec, pages[rows], engine) == [whole[row] for row in rows]
    pages = np.frombuffer(pages.tobytes(), np.uint8).reshape(pages.shape)
    assert not pages.flags.writeable
    assert encode(codec, pages, engine) == whole


@pytest.mark.parametrize("name", NAMES)
def test_engines_read_each_other(name: str) -> None:
    pages = pages_of(4096)
    rows = [row for row, kind in enumerate(pages.names) if kind not in ("noise", "pointers")]
    plain = pages.array[rows]
    stored = {}
    engines = [engine for codec, engine in ENGINES if codec == name]
    for engine in engines:
        try:
            stored[engine] = encode(codecs.get(name), plain, engine)
        except MissingDependency:
            continue
    assert stored
    for reader in stored:
        with pytest.MonkeyPatch.context() as patch:
            codec = use_only(patch, name, reader)
            for writer, pieces in stored.items():
                assert decode(codec, pieces, 4096) == [page.tobytes() for page in plain], f"{reader} reads {writer}'s"


@pytest.mark.parametrize(("name", "engine"), ENGINES)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_damaged_pages_are_refused_or_are_pages(name: str, engine: str, data: st.DataObject) -> None:
    """Cut, with bits flipped, or noise: nothing is made that isn't as long as a page."""
    with pytest.MonkeyPatch.context() as patch:
        codec = use_only(patch, name, engine)
        pages = pages_of(4096)
        stored = bytearray(encode(codec, pages.array[[pages.names.index("text")]], engine)[0])
        for at in data.draw(st.lists(st.integers(0, 8 * len(stored) - 1), max_size=8)):
            stored[at // 8] ^= 1 << at % 8
        cut = data.draw(st.one_of(st.just(len(stored)), st.integers(0, len(stored))))
        damaged = data.draw(st.one_of(st.just(bytes(stored[:cut])), st.binary(max_size=300)))
        try:
            (page,) = decode(codec, [damaged], 4096)
        except CodecError:
            return
        assert len(page) == 4096


@pytest.mark.parametrize(("name", "engine"), ENGINES)
def test_cut_pages_are_refused(name: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = use_only(monkeypatch, name, engine)
    pages = pages_of(4096)
    (stored,) = encode(codec, pages.array[[pages.names.index("half noise")]], engine)
    for nbytes in (0, 1, len(stored) // 2):
        with pytest.raises(CodecError):
            decode(codec, [stored[:nbytes]], 4096)


@pytest.mark.parametrize(("name", "engine"), ENGINES)
def test_what_unpacks_to_more_than_a_page_takes_no_memory(
    name: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = use_only(monkeypatch, name, engine)
    if name == "zlib":
        bomb = zlib.compress(bytes(BOMB_NBYTES), 9)
    else:
        (bomb,) = encode(codec, np.zeros((1, BOMB_NBYTES), np.uint8), engine)
    assert len(bomb) < BOMB_NBYTES // 16
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode(codec, [bomb], 4096)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", NAMES)
def test_no_pages(name: str) -> None:
    codec = codecs.get(name)
    assert decode(codec, [], 4096) == []


@pytest.mark.parametrize("name", NAMES)
def test_an_engine_that_is_not_there_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"npdump.codecs.{name}")

    def absent() -> Any:
        raise ImportError("no such library")

    lacking = {engine: entry._replace(load=absent) for engine, entry in module._ENGINES.items()}
    monkeypatch.setattr(module, "_ENGINES", lacking)
    with pytest.raises(MissingDependency, match=next(iter(lacking))):
        module.CODEC.encoder(4096)
    with pytest.raises(MissingDependency, match="isn't installed"):
        module.CODEC.decoder(4096)
    assert all("not installed" in line for line in module.CODEC.engines())
