# SPDX-License-Identifier: GPL-2.0-or-later
"""LZO1X, by the system's liblzo2 or, without the compiled core, by python-lzo.

One decoder reads what all variants make. The numbers are those of liblzo2's functions: ``lzo1x_1_12_compress()`` has a
table of 4 Ki entries where that of ``lzo1x_1_compress()``, makedumpfile's, has 16 Ki; it is cleared for every page.
On kernel pages that saves a quarter of the time and costs 0.3 % of the size.
"""

from __future__ import annotations

import ctypes
from itertools import repeat
from typing import TYPE_CHECKING, Any

from npdump.codecs import DecodePages, EncodePages, decoder_of, encoder_of, level_of
from npdump.codecs._engines import Call, Engine, Native, choose, describe, load_library
from npdump.layouts.page_flag import PageFlag

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CODEC"]

MEM_COMPRESS = 32768 * ctypes.sizeof(ctypes.c_void_p)
"""Work memory of lzo1x_1_15_compress(), which takes most (lzo1x.h)."""

FUNCTIONS = {
    12: "lzo1x_1_12_compress",
    1: "lzo1x_1_compress",
    11: "lzo1x_1_11_compress",
    15: "lzo1x_1_15_compress",
}


def _load_python_lzo() -> Any:
    import lzo

    return lzo


def _text(version: str | bytes) -> str:
    return version.decode() if isinstance(version, bytes) else version


def _liblzo2_version(library: ctypes.CDLL) -> str:
    library.lzo_version_string.restype = ctypes.c_char_p
    return str(library.lzo_version_string().decode())


_ENGINES = {
    "liblzo2": Engine(lambda: load_library("liblzo2.so.2"), _liblzo2_version, "apt-get install liblzo2-2"),
    "python-lzo": Engine(
        _load_python_lzo,
        lambda module: f"{_text(module.__version__)} (liblzo2 {_text(module.LZO_VERSION_STRING)})",
        "apt-get install liblzo2-dev && pip install python-lzo",
    ),
}


class Lzo:
    """See `npdump.codecs.Codec`."""

    name = "lzo"
    flag = PageFlag.LZO
    levels = tuple(FUNCTIONS)
    min_batches_per_thread = 16

    def engines(self) -> list[str]:
        """See `npdump.codecs.Codec.engines`."""
        return describe(_ENGINES)

    def encoder(self, page_size: int, engine: str | None = None, level: int | None = None) -> EncodePages:
        """See `npdump.codecs.Codec.encoder`; python-lzo has ``lzo1x_1_compress()`` alone, at whatever level."""
        level = level_of(self, level)
        name, library = choose("-l", _ENGINES, engine)
        if name == "liblzo2":
            function = getattr(library, FUNCTIONS[level])
            return Native(Call.WORK, function, ctypes.create_string_buffer(MEM_COMPRESS)).encoder(page_size)
        compress = library.compress

        def encode(pages: Sequence[Any]) -> list[bytes]:
            # Level 1 is lzo1x_1_compress(); no header of python-lzo's own.
            return list(map(compress, pages, repeat(1), repeat(False)))

        return encoder_of(encode, page_size)

    def decoder(self, page_size: int) -> DecodePages:
        """See `npdump.codecs.Codec.decoder`."""
        name, library = choose("LZO-compressed input", _ENGINES)
        if name == "liblzo2":
            return Native(Call.WORK, library.lzo1x_decompress_safe).decoder(page_size)
        decompress = library.decompress
        return decoder_of(lambda page: decompress(page, False, page_size), page_size, (library.error,))


CODEC = Lzo()
