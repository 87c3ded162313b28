# SPDX-License-Identifier: GPL-2.0-or-later
"""Decompression with the system's own libraries: zlib, and liblzo2, libsnappy and libzstd through ctypes."""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable
from functools import cache

ZLIB, LZO, SNAPPY, ZSTD = 0x1, 0x2, 0x4, 0x20
FLAGS = {"zlib": ZLIB, "lzo": LZO, "snappy": SNAPPY, "zstd": ZSTD}
LIBRARIES = {LZO: "liblzo2.so.2", SNAPPY: "libsnappy.so.1", ZSTD: "libzstd.so.1"}

Decoder = Callable[[bytes, int], bytes]


class BadPage(ValueError):
    """A page that doesn't decompress to exactly one page."""


def missing(flag: int) -> str | None:
    """The library that a codec needs and this machine doesn't have, or None."""
    try:
        decoder(flag)
    except OSError as error:
        return f"{LIBRARIES[flag]}: {error}"
    return None


def _sized(decompress: Callable[[bytes, ctypes.Array, ctypes.c_size_t], bool]) -> Decoder:
    def decode(data: bytes, n_bytes: int) -> bytes:
        out, length = ctypes.create_string_buffer(n_bytes), ctypes.c_size_t(n_bytes)
        if not decompress(data, out, length) or length.value != n_bytes:
            raise BadPage(f"{len(data)} stored bytes gave {length.value} of {n_bytes}")
        return out.raw

    return decode


def _lzo() -> Decoder:
    function = ctypes.CDLL(LIBRARIES[LZO]).lzo1x_decompress_safe
    return _sized(lambda data, out, n: function(data, ctypes.c_size_t(len(data)), out, ctypes.byref(n), None) == 0)


def _snappy() -> Decoder:
    function = ctypes.CDLL(LIBRARIES[SNAPPY]).snappy_uncompress
    return _sized(lambda data, out, n: function(data, ctypes.c_size_t(len(data)), out, ctypes.byref(n)) == 0)


def _zstd() -> Decoder:
    library = ctypes.CDLL(LIBRARIES[ZSTD])
    library.ZSTD_decompress.restype = ctypes.c_size_t

    def decompress(data: bytes, out: ctypes.Array, length: ctypes.c_size_t) -> bool:
        length.value = library.ZSTD_decompress(out, ctypes.c_size_t(len(out)), data, ctypes.c_size_t(len(data)))
        return not library.ZSTD_isError(length)

    return _sized(decompress)


def _zlib() -> Decoder:
    def decode(data: bytes, n_bytes: int) -> bytes:
        stream = zlib.decompressobj()
        page = stream.decompress(data, n_bytes + 1)
        if len(page) != n_bytes or not stream.eof or stream.unused_data:
            raise BadPage(f"{len(data)} stored bytes are not one zlib stream of {n_bytes}")
        return page

    return decode


@cache
def decoder(flag: int) -> Decoder:
    """Decoder for a page descriptor's flag. OSError if the system lacks the library."""
    return {ZLIB: _zlib, LZO: _lzo, SNAPPY: _snappy, ZSTD: _zstd}[flag]()
