# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw snappy blocks, by cramjam."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npdump.codecs import DecodePages, EncodePages, decoder_of, encoder_of
from npdump.codecs._engines import Engine, choose, describe
from npdump.layouts.page_flag import PageFlag

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CODEC"]


def _load_cramjam() -> Any:
    import cramjam

    return cramjam


_ENGINES = {"cramjam": Engine(_load_cramjam, lambda module: module.__version__, "pip install cramjam")}


class Snappy:
    """See `npdump.codecs.Codec`."""

    name = "snappy"
    flag = PageFlag.SNAPPY
    min_batches_per_worker = 64

    def engines(self) -> list[str]:
        """See `npdump.codecs.Codec.engines`."""
        return describe(_ENGINES)

    def encoder(self, page_size: int, engine: str | None = None) -> EncodePages:
        """See `npdump.codecs.Codec.encoder`."""
        # Not snappy.compress(), which writes the framing format.
        compress = choose("-p", _ENGINES, engine)[1].snappy.compress_raw

        def encode(pages: Sequence[Any]) -> list[Any]:
            return list(map(compress, pages))

        return encoder_of(encode, page_size)

    def decoder(self, page_size: int) -> DecodePages:
        """See `npdump.codecs.Codec.decoder`."""
        module = choose("snappy-compressed input", _ENGINES)[1]
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
