"""Zstandard frames, by zstandard or, from Python 3.14 on, the standard library."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import IO, Any

from npdump.codecs import EncodePages
from npdump.engines import Engine, choose, describe
from npdump.layouts.page_flag import PageFlag

__all__ = ["CODEC", "open_stream"]

LEVEL = 1
"""makedumpfile's."""


def _load_zstandard() -> Any:
    import zstandard

    return zstandard


_ENGINES = {
    "zstandard": Engine(
        _load_zstandard,
        lambda module: f"{module.__version__} (libzstd {'.'.join(map(str, module.ZSTD_VERSION))})",
        "pip install 'npdump[zstd]'",
    ),
    "compression.zstd": Engine(
        lambda: importlib.import_module("compression.zstd"), lambda module: module.zstd_version, "Python 3.14"
    ),
}


def open_stream(file: IO[bytes]) -> Any:
    """Return a binary file with the decompressed content of another.

    Raises
    ------
    MissingDependency
    """
    name, module = choose("a file compressed with zstd", _ENGINES)
    return module.ZstdDecompressor().stream_reader(file) if name == "zstandard" else module.ZstdFile(file)


class Zstd:
    """See `npdump.codecs.Codec`."""

    name = "zstd"
    flag = PageFlag.ZSTD
    engine_names = tuple(_ENGINES)

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

        return encode


CODEC = Zstd()
