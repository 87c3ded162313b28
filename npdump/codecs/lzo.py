# SPDX-License-Identifier: GPL-2.0-or-later
"""LZO1X-1, by python-lzo or, where that can't be built, by the system's liblzo2 through ctypes; the same bytes."""

from __future__ import annotations

import ctypes
from itertools import repeat
from typing import TYPE_CHECKING, Any

from npdump.codecs import DecodePages, EncodePages, decoder_of, encoder_of
from npdump.codecs._engines import Engine, choose, describe
from npdump.errors import CodecError
from npdump.layouts.page_flag import PageFlag

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CODEC"]

LZO1X_1_MEM_COMPRESS = 16384 * ctypes.sizeof(ctypes.c_void_p)
"""Work memory of lzo1x_1_compress() (lzo1x.h)."""


def _load_python_lzo() -> Any:
    import lzo

    return lzo


def _text(version: str | bytes) -> str:
    return version.decode() if isinstance(version, bytes) else version


def _load_liblzo2() -> ctypes.CDLL:
    import ctypes.util  # brings subprocess and shutil with it

    return ctypes.CDLL(ctypes.util.find_library("lzo2") or "liblzo2.so.2")


def _liblzo2_version(library: ctypes.CDLL) -> str:
    library.lzo_version_string.restype = ctypes.c_char_p
    return str(library.lzo_version_string().decode())


_ENGINES = {
    "python-lzo": Engine(
        _load_python_lzo,
        lambda module: f"{_text(module.__version__)} (liblzo2 {_text(module.LZO_VERSION_STRING)})",
        "apt-get install liblzo2-dev && pip install python-lzo",
    ),
    "liblzo2": Engine(_load_liblzo2, _liblzo2_version, "apt-get install liblzo2-2"),
}


class Lzo:
    """See `npdump.codecs.Codec`."""

    name = "lzo"
    flag = PageFlag.LZO
    min_batches_per_worker = 64

    def engines(self) -> list[str]:
        """See `npdump.codecs.Codec.engines`."""
        return describe(_ENGINES)

    def encoder(self, page_size: int, engine: str | None = None) -> EncodePages:
        """See `npdump.codecs.Codec.encoder`."""
        name, library = choose("-l", _ENGINES, engine)
        if name == "liblzo2":
            return _liblzo2_encoder(library, page_size)
        compress = library.compress

        def encode(pages: Sequence[Any]) -> list[bytes]:
            # Level 1 is lzo1x_1_compress(); no header of python-lzo's own.
            return list(map(compress, pages, repeat(1), repeat(False)))

        return encoder_of(encode, page_size)

    def decoder(self, page_size: int) -> DecodePages:
        """See `npdump.codecs.Codec.decoder`."""
        name, library = choose("LZO-compressed input", _ENGINES)
        if name == "liblzo2":
            return _liblzo2_decoder(library, page_size)
        decompress = library.decompress
        return decoder_of(lambda page: decompress(page, False, page_size), page_size, (library.error,))


def _liblzo2_decoder(library: ctypes.CDLL, page_size: int) -> DecodePages:
    out = ctypes.create_string_buffer(page_size)
    out_nbytes = ctypes.c_size_t()
    decompress = library.lzo1x_decompress_safe

    def decode_page(page: Any) -> bytes:
        data = bytes(page)
        out_nbytes.value = page_size
        code = decompress(data, ctypes.c_size_t(len(data)), out, ctypes.byref(out_nbytes), None)
        if code:
            raise CodecError(f"liblzo2 says {code}")
        return ctypes.string_at(out, out_nbytes.value)

    return decoder_of(decode_page, page_size, (CodecError,))


def _liblzo2_encoder(library: ctypes.CDLL, page_size: int) -> EncodePages:
    # lzo1x.h: incompressible data grows by at most 1/16 and 67 bytes.
    out = ctypes.create_string_buffer(page_size + page_size // 16 + 67)
    work = ctypes.create_string_buffer(LZO1X_1_MEM_COMPRESS)
    out_nbytes = ctypes.c_size_t()
    compress = library.lzo1x_1_compress
    page_buffer = ctypes.c_char * page_size

    def encode_page(page: Any) -> bytes:
        data = page_buffer.from_buffer(page)
        if compress(data, ctypes.c_size_t(page_size), out, ctypes.byref(out_nbytes), work):
            raise CodecError("liblzo2 failed to compress a page")
        return ctypes.string_at(out, out_nbytes.value)

    return encoder_of(lambda pages: list(map(encode_page, pages)), page_size)


CODEC = Lzo()
