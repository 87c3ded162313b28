# SPDX-License-Identifier: GPL-2.0-or-later
"""Zstandard frames, by zstandard or, from Python 3.14 on, the standard library."""

from __future__ import annotations

import importlib
import io
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from npdump.codecs import DecodePages, EncodePages, decoder_of, encoder_of
from npdump.codecs._engines import Engine, choose, describe
from npdump.errors import CodecError
from npdump.layouts.page_flag import PageFlag

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CODEC", "open_frames"]

MAX_WINDOW_NBYTES = 1 << 31
"""Memory that a file may ask for: as much as zstd --long=31."""

LEVEL = 1
"""makedumpfile's."""


def _load_zstandard() -> Any:
    import zstandard

    return zstandard


_ENGINES = {
    "zstandard": Engine(
        _load_zstandard,
        lambda module: f"{module.__version__} (libzstd {'.'.join(map(str, module.ZSTD_VERSION))})",
        "apt-get or dnf install python3-zstandard, or pip install zstandard",
    ),
    "compression.zstd": Engine(
        lambda: importlib.import_module("compression.zstd"), lambda module: module.zstd_version, "Python 3.14"
    ),
}


class Zstd:
    """See `npdump.codecs.Codec`."""

    name = "zstd"
    flag = PageFlag.ZSTD
    min_batches_per_worker = 8

    def engines(self) -> list[str]:
        """See `npdump.codecs.Codec.engines`."""
        return describe(_ENGINES)

    def encoder(self, page_size: int, engine: str | None = None) -> EncodePages:
        """See `npdump.codecs.Codec.encoder`."""
        name, module = choose("-z", _ENGINES, engine)
        # One compressor, used again and again: a new one each time costs twice as much. It isn't thread safe.
        if name == "zstandard":
            compress = module.ZstdCompressor(level=LEVEL).compress
        else:
            compressor = module.ZstdCompressor(level=LEVEL)

            def compress(page: Any) -> Any:
                return compressor.compress(page, mode=compressor.FLUSH_FRAME)

        def encode(pages: Sequence[Any]) -> list[bytes]:
            return list(map(compress, pages))

        return encoder_of(encode, page_size)

    def decoder(self, page_size: int) -> DecodePages:
        """See `npdump.codecs.Codec.decoder`."""
        name, module = choose("zstd-compressed input", _ENGINES)
        if name == "compression.zstd":
            new = module.ZstdDecompressor
            return decoder_of(lambda page: new().decompress(page, page_size + 1), page_size, (module.ZstdError,))
        decompress = module.ZstdDecompressor().decompress
        stated_nbytes = module.frame_content_size

        def decode(page: Any) -> Any:
            # The frame says how much will be allocated for it; it may leave that out.
            return decompress(page, page_size) if stated_nbytes(page) in (page_size, -1) else b""

        return decoder_of(decode, page_size, (module.ZstdError,))


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
    name, module = choose("zstd-compressed input", _ENGINES)
    if name == "zstandard":
        decompressor = module.ZstdDecompressor(max_window_size=MAX_WINDOW_NBYTES)
        frames = decompressor.stream_reader(stream, read_across_frames=True)
    else:
        frames = module.ZstdFile(stream)
    return cast("BinaryIO", io.BufferedReader(_Frames(frames, module.ZstdError), 1 << 20))


CODEC = Zstd()
