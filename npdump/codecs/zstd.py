# SPDX-License-Identifier: GPL-2.0-or-later
"""Zstandard frames, by the system's libzstd or, without the compiled core, by zstandard or Python 3.14."""

from __future__ import annotations

import importlib
import io
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from npdump.codecs import DecodePages, EncodePages, decoder_of, encoder_of, level_of
from npdump.codecs._engines import Call, Context, Engine, Native, choose, decoder_by_thread, describe, load_library
from npdump.errors import CodecError
from npdump.layouts.page_flag import PageFlag

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CODEC", "open_frames"]

MAX_WINDOW_NBYTES = 1 << 31
"""Memory that a file may ask for: as much as zstd --long=31."""

LEVELS: tuple[int, ...] = (1, 2, 3, -1, -2)
"""makedumpfile's first. Below -2 pages become larger than with LZO and take as long; above 3 nothing is gained."""


def _load_zstandard() -> Any:
    import zstandard

    return zstandard


def _load_libzstd() -> Any:
    import ctypes

    library = load_library("libzstd.so.1")
    library.ZSTD_createCCtx.restype = library.ZSTD_createDCtx.restype = ctypes.c_void_p
    library.ZSTD_versionString.restype = ctypes.c_char_p
    library.ZSTD_freeCCtx.argtypes = library.ZSTD_freeDCtx.argtypes = (ctypes.c_void_p,)
    return library


_STREAMING_ENGINES = {
    "zstandard": Engine(
        _load_zstandard,
        lambda module: f"{module.__version__} (libzstd {'.'.join(map(str, module.ZSTD_VERSION))})",
        "apt-get or dnf install python3-zstandard, or pip install zstandard",
    ),
    "compression.zstd": Engine(
        lambda: importlib.import_module("compression.zstd"), lambda module: module.zstd_version, "Python 3.14"
    ),
}
_ENGINES = {
    "libzstd": Engine(_load_libzstd, lambda library: library.ZSTD_versionString().decode(), "apt-get install libzstd1"),
    **_STREAMING_ENGINES,
}


class Zstd:
    """See `npdump.codecs.Codec`."""

    name = "zstd"
    flag = PageFlag.ZSTD
    levels = LEVELS
    min_batches_per_thread = 8

    def engines(self) -> list[str]:
        """See `npdump.codecs.Codec.engines`."""
        return describe(_ENGINES)

    def encoder(self, page_size: int, engine: str | None = None, level: int | None = None) -> EncodePages:
        """See `npdump.codecs.Codec.encoder`."""
        level = level_of(self, level)
        name, module = choose("-z", _ENGINES, engine)
        if name == "libzstd":
            context = Context(module.ZSTD_createCCtx(), module.ZSTD_freeCCtx)
            return Native(Call.LEVEL, module.ZSTD_compressCCtx, context, level=level).encoder(page_size)
        # One compressor, used again and again: a new one each time costs twice as much. It isn't thread safe.
        if name == "zstandard":
            compress = module.ZstdCompressor(level=level).compress
        else:
            compressor = module.ZstdCompressor(level=level)

            def compress(page: Any) -> Any:
                return compressor.compress(page, mode=compressor.FLUSH_FRAME)

        def encode(pages: Sequence[Any]) -> list[bytes]:
            return list(map(compress, pages))

        return encoder_of(encode, page_size)

    def decoder(self, page_size: int) -> DecodePages:
        """See `npdump.codecs.Codec.decoder`."""
        name, module = choose("zstd-compressed input", _ENGINES)
        if name == "libzstd":
            return decoder_by_thread(lambda: _uncompression(module), page_size)
        if name == "compression.zstd":
            new = module.ZstdDecompressor
            return decoder_of(lambda page: new().decompress(page, page_size + 1), page_size, (module.ZstdError,))
        stated_nbytes = module.frame_content_size

        def decode(page: Any) -> Any:
            # The frame says how much will be allocated for it; it may leave that out.
            if stated_nbytes(page) not in (page_size, -1):
                return b""
            # A decompressor is one thread's.
            return module.ZstdDecompressor().decompress(page, page_size)

        return decoder_of(decode, page_size, (module.ZstdError,))


def _uncompression(library: Any) -> Native:
    context = Context(library.ZSTD_createDCtx(), library.ZSTD_freeDCtx)
    return Native(Call.LEVEL, library.ZSTD_decompressDCtx, context)


class _Frames(io.RawIOBase):
    """What the frames of a file hold."""

    def __init__(self, frames: Any, error: type[Exception]) -> None:
        self._frames = frames
        self._error = error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._frames.read(len(buffer))
        except self._error as error:
            raise CodecError(str(error)) from None
        buffer[: len(data)] = data
        return len(data)


def open_frames(stream: IO[bytes]) -> BinaryIO:
    """Return a stream of what a compressed file holds; reading it raises CodecError if that's damaged.

    Raises
    ------
    MissingDependency
        If no engine is installed.
    """
    name, module = choose("zstd-compressed input", _STREAMING_ENGINES)
    if name == "zstandard":
        decompressor = module.ZstdDecompressor(max_window_size=MAX_WINDOW_NBYTES)
        frames = decompressor.stream_reader(stream, read_across_frames=True)
    else:
        frames = module.ZstdFile(stream)
    return cast("BinaryIO", io.BufferedReader(_Frames(frames, module.ZstdError), 1 << 20))


CODEC = Zstd()
