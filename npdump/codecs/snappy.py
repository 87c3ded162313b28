# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw snappy blocks, by the system's libsnappy or, without the compiled core, by cramjam."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npdump.codecs import DecodePages, EncodePages, decoder_of, encoder_of, level_of
from npdump.codecs._engines import Call, Engine, Native, choose, describe, load_library
from npdump.layouts.page_flag import PageFlag

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CODEC"]


def _load_cramjam() -> Any:
    import cramjam

    return cramjam


_ENGINES = {
    "libsnappy": Engine(lambda: load_library("libsnappy.so.1"), lambda library: "", "apt-get install libsnappy1v5"),
    "cramjam": Engine(_load_cramjam, lambda module: module.__version__, "pip install cramjam"),
}


class Snappy:
    """See `npdump.codecs.Codec`."""

    name = "snappy"
    flag = PageFlag.SNAPPY
    levels: tuple[int, ...] = (0,)
    min_batches_per_thread = 16

    def engines(self) -> list[str]:
        """See `npdump.codecs.Codec.engines`."""
        return describe(_ENGINES)

    def encoder(self, page_size: int, engine: str | None = None, level: int | None = None) -> EncodePages:
        """See `npdump.codecs.Codec.encoder`."""
        level_of(self, level)
        name, library = choose("-p", _ENGINES, engine)
        if name == "libsnappy":
            return Native(Call.PLAIN, library.snappy_compress).encoder(page_size)
        # Not snappy.compress(), which writes the framing format.
        compress = library.snappy.compress_raw

        def encode(pages: Sequence[Any]) -> list[Any]:
            return list(map(compress, pages))

        return encoder_of(encode, page_size)

    def decoder(self, page_size: int) -> DecodePages:
        """See `npdump.codecs.Codec.decoder`."""
        name, module = choose("snappy-compressed input", _ENGINES)
        if name == "libsnappy":
            return Native(Call.PLAIN, module.snappy_uncompress).decoder(page_size)
        decompress = module.snappy.decompress_raw
        # A block begins with its uncompressed length, for which cramjam allocates memory.
        preamble = _varint(page_size)

        def decode(page: Any) -> Any:
            return decompress(page) if bytes(page[: len(preamble)]) == preamble else b""

        return decoder_of(decode, page_size, (module.DecompressionError,))


def _varint(number: int) -> bytes:
    """Return a number in groups of 7 bits, least significant first (snappy's format_description.txt, 1.)."""
    groups = []
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*groups, number))


CODEC = Snappy()
