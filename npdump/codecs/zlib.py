# SPDX-License-Identifier: GPL-2.0-or-later
"""zlib streams, by Intel's ISA-L, libdeflate or zlib.

ISA-L compresses three times as fast as zlib, uncompresses half as fast again, and makes streams that are 3 % larger.
libdeflate is twice as fast as zlib, 1 % larger, and always gives the same bytes. zlib's level 1 gives the very bytes
that makedumpfile gives, as long as both use the same build of zlib: since its version 1.6.7 makedumpfile keeps a
context as the compiled core does, which is a quarter faster than ``compress2()`` and Python's own module.

With the compiled core all three are shared libraries: the system's, and for ISA-L that inside Python's isal too.
Without it, Python's isal (whose streams, for about one page in 20,000, differ in length from run to run; isal 1.9.1),
deflate and the standard library do the same.
"""

from __future__ import annotations

import ctypes
import zlib
from contextlib import suppress
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any

from npdump.codecs import DecodePages, EncodePages, decoder_of, encoder_of, level_of
from npdump.codecs._engines import Call, Context, Engine, Native, choose, decoder_by_thread, describe, load_library
from npdump.errors import CodecError, MissingDependency
from npdump.layouts.page_flag import PageFlag

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CODEC"]

LEVELS: tuple[int, ...] = (1, 0)
"""makedumpfile's first; 0 is ISA-L's fastest, twice as fast and a fifth larger, and no compression with the others."""
MAX_WINDOW_BITS = 15

IGZIP_ZLIB = 3
IGZIP_STREAM_NBYTES = 1 << 17
"""More than an isal_zstream with its history and hash table takes (igzip_lib.h: 82 KiB)."""
IGZIP_STATE_NBYTES = 176
"""An isal_zstream up to its history. isal_deflate_reset() would do, but up to 2.31 it forgets the format's header."""
IGZIP_LEVEL_NBYTES = 4096 + 2 * 8192
"""ISAL_DEF_LVL1_REQ, to which 4 bytes for each byte of a block come."""


class _ZStream(ctypes.Structure):
    """``z_stream`` of zlib.h."""

    _fields_ = (
        *(
            (name, kind)
            for end in ("in", "out")
            for name, kind in (
                (f"next_{end}", ctypes.c_void_p),
                (f"avail_{end}", ctypes.c_uint),
                (f"total_{end}", ctypes.c_ulong),
            )
        ),
        *((name, ctypes.c_void_p) for name in ("msg", "state", "zalloc", "zfree", "opaque")),
        ("data_type", ctypes.c_int),
        ("adler", ctypes.c_ulong),
        ("reserved", ctypes.c_ulong),
    )


class _IsalStream(ctypes.Structure):
    """``isal_zstream`` of igzip_lib.h; what comes after ``hist_bits`` is ISA-L's own."""

    _fields_ = (
        ("next_in", ctypes.c_void_p),
        ("avail_in", ctypes.c_uint32),
        ("total_in", ctypes.c_uint32),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint32),
        ("total_out", ctypes.c_uint32),
        ("hufftables", ctypes.c_void_p),
        ("level", ctypes.c_uint32),
        ("level_buf_size", ctypes.c_uint32),
        ("level_buf", ctypes.c_void_p),
        ("end_of_stream", ctypes.c_uint16),
        ("flush", ctypes.c_uint16),
        ("gzip_flag", ctypes.c_uint16),
        ("hist_bits", ctypes.c_uint16),
        ("internal_state", ctypes.c_char * IGZIP_STREAM_NBYTES),
    )


def _load_isal() -> Any:
    try:
        return load_library("libisal.so.2")
    except OSError:
        from isal import igzip_lib
    try:
        # The module has ISA-L's own functions in it.
        return load_library(igzip_lib.__file__)
    except OSError:
        return igzip_lib


def _load_libdeflate() -> Any:
    try:
        library = load_library("libdeflate.so.0")
    except OSError:
        import deflate

        return deflate
    library.libdeflate_alloc_compressor.restype = library.libdeflate_alloc_decompressor.restype = ctypes.c_void_p
    library.libdeflate_free_compressor.argtypes = library.libdeflate_free_decompressor.argtypes = (ctypes.c_void_p,)
    return library


def _load_zlib() -> Any:
    try:
        return load_library("libz.so.1")
    except OSError:
        return zlib


def _isal_version(library: Any) -> str:
    if isinstance(library, ctypes.CDLL) and "igzip_lib" not in library._name:
        return f"({library._name})"
    import importlib.metadata

    return importlib.metadata.version("isal")


def _libdeflate_version(library: Any) -> str:
    return f"({library._name})" if isinstance(library, ctypes.CDLL) else str(library.__version__)


def _zlib_version(library: Any) -> str:
    if not isinstance(library, ctypes.CDLL):
        return zlib.ZLIB_RUNTIME_VERSION
    library.zlibVersion.restype = ctypes.c_char_p
    return str(library.zlibVersion().decode())


_ENGINES = {
    "isal": Engine(_load_isal, _isal_version, "apt-get install libisal2, or pip install isal"),
    "libdeflate": Engine(_load_libdeflate, _libdeflate_version, "apt-get install libdeflate0, or pip install deflate"),
    "zlib": Engine(_load_zlib, _zlib_version, "part of Python"),
}


class Zlib:
    """See `npdump.codecs.Codec`."""

    name = "zlib"
    flag = PageFlag.ZLIB
    levels = LEVELS
    min_batches_per_thread = 4

    def engines(self) -> list[str]:
        """See `npdump.codecs.Codec.engines`."""
        return describe(_ENGINES)

    def encoder(self, page_size: int, engine: str | None = None, level: int | None = None) -> EncodePages:
        """See `npdump.codecs.Codec.encoder`."""
        level = level_of(self, level)
        name, library = choose("-c", _ENGINES, engine)
        if isinstance(library, ctypes.CDLL):
            return _NATIVE[name](library, page_size, level).encoder(page_size)
        if name != "isal":
            compress = library.zlib_compress if name == "libdeflate" else library.compress

            def encode(pages: Sequence[Any]) -> list[bytes]:
                return list(map(compress, pages, repeat(level)))

            return encoder_of(encode, page_size)
        compress, form, memory = library.compress, library.COMP_ZLIB, library.MEM_LEVEL_DEFAULT
        window_bits = _window_bits(page_size)

        def encode_isal(pages: Sequence[Any]) -> list[bytes]:
            return list(map(compress, pages, repeat(level), repeat(form), repeat(memory), repeat(window_bits)))

        return encoder_of(encode_isal, page_size)

    def decoder(self, page_size: int) -> DecodePages:
        """See `npdump.codecs.Codec.decoder`."""
        # ISA-L's own decoder is slower than libdeflate's.
        for name in ("libdeflate", "zlib"):
            with suppress(MissingDependency, KeyError):
                library = choose("zlib-compressed input", _ENGINES, name)[1]
                if isinstance(library, ctypes.CDLL):
                    return decoder_by_thread(partial(_UNCOMPRESSION[name], library), page_size)
        # One byte more than a page tells a stream that is too long.
        limit = page_size + 1
        name, library = choose("zlib-compressed input", _ENGINES)
        if name == "isal" and not isinstance(library, ctypes.CDLL):
            new_igzip, form = library.IgzipDecompressor, library.DECOMP_ZLIB
            return decoder_of(lambda page: new_igzip(form).decompress(page, limit), page_size, (library.IsalError,))
        new = zlib.decompressobj
        return decoder_of(lambda page: new().decompress(page, limit), page_size, (zlib.error,))


def _window_bits(page_size: int) -> int:
    """Return ISA-L's window: one as large as the page finds all that there is to find, and is quicker to set up."""
    return min(page_size.bit_length() - 1, MAX_WINDOW_BITS)


def _isal(library: ctypes.CDLL, page_size: int, level: int) -> Native:
    level_buffer = ctypes.create_string_buffer(IGZIP_LEVEL_NBYTES + 4 * max(page_size, 1 << 14))
    stream = _IsalStream()
    library.isal_deflate_stateless_init(ctypes.byref(stream))
    stream.level, stream.level_buf, stream.level_buf_size = level, ctypes.addressof(level_buffer), len(level_buffer)
    stream.end_of_stream, stream.gzip_flag, stream.hist_bits = 1, IGZIP_ZLIB, _window_bits(page_size)
    beginning = ctypes.create_string_buffer(bytes(stream)[:IGZIP_STATE_NBYTES], IGZIP_STATE_NBYTES)
    context = Context(ctypes.addressof(stream), lambda _: (stream, level_buffer, beginning))
    return Native(Call.STREAM32, library.isal_deflate_stateless, context, beginning, IGZIP_STATE_NBYTES)


def _libdeflate(library: ctypes.CDLL, page_size: int, level: int) -> Native:
    context = Context(library.libdeflate_alloc_compressor(level), library.libdeflate_free_compressor)
    return Native(Call.CONTEXT, library.libdeflate_zlib_compress, context)


def _zlib(library: ctypes.CDLL, page_size: int, level: int) -> Native:
    stream = _ZStream()
    library.zlibVersion.restype = ctypes.c_char_p
    code = library.deflateInit_(ctypes.byref(stream), level, library.zlibVersion(), ctypes.sizeof(stream))
    if code:
        raise CodecError(f"zlib can't begin to compress: error {code}")
    context = Context(ctypes.addressof(stream), lambda _: library.deflateEnd(ctypes.byref(stream)))
    return Native(Call.STREAM, library.deflate, context, library.deflateReset)


def _from_libdeflate(library: ctypes.CDLL) -> Native:
    context = Context(library.libdeflate_alloc_decompressor(), library.libdeflate_free_decompressor)
    return Native(Call.CONTEXT, library.libdeflate_zlib_decompress, context)


def _from_zlib(library: ctypes.CDLL) -> Native:
    stream = _ZStream()
    library.zlibVersion.restype = ctypes.c_char_p
    code = library.inflateInit_(ctypes.byref(stream), library.zlibVersion(), ctypes.sizeof(stream))
    if code:
        raise CodecError(f"zlib can't begin to uncompress: error {code}")
    context = Context(ctypes.addressof(stream), lambda _: library.inflateEnd(ctypes.byref(stream)))
    return Native(Call.STREAM, library.inflate, context, library.inflateReset)


_NATIVE = {"isal": _isal, "libdeflate": _libdeflate, "zlib": _zlib}
_UNCOMPRESSION = {"libdeflate": _from_libdeflate, "zlib": _from_zlib}

CODEC = Zlib()
