# SPDX-License-Identifier: GPL-2.0-or-later
"""No compression."""

from __future__ import annotations

from typing import Any

from npdump.codecs import DecodePages, EncodePages, decoder_of
from npdump.layouts.page_flag import PageFlag

__all__ = ["CODEC"]


class Raw:
    """See `npdump.codecs.Codec`."""

    name = "raw"
    flag = PageFlag.RAW
    min_batches_per_worker = None

    def engines(self) -> list[str]:
        """See `npdump.codecs.Codec.engines`."""
        return ["builtin"]

    def encoder(self, page_size: int, engine: str | None = None) -> EncodePages:
        """See `npdump.codecs.Codec.encoder`."""

        def encode(pages: Any, rows: Any) -> tuple[Any, list[int]]:
            chosen = pages if len(rows) == len(pages) else pages[rows]
            return chosen.reshape(-1).data, [page_size] * len(rows)

        return encode

    def decoder(self, page_size: int) -> DecodePages:
        """See `npdump.codecs.Codec.decoder`."""
        return decoder_of(lambda page: page, page_size, ())


CODEC = Raw()
