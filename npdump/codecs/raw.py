# SPDX-License-Identifier: GPL-2.0-or-later
"""No compression."""

from __future__ import annotations

from typing import Any

from npdump.codecs import DecodePages, EncodePages, decoder_of
from npdump.codecs._engines import Call, Native
from npdump.core import CORE
from npdump.layouts.page_flag import PageFlag

__all__ = ["CODEC"]


class Raw:
    """See `npdump.codecs.Codec`."""

    name = "raw"
    flag = PageFlag.RAW
    levels: tuple[int, ...] = (0,)
    min_batches_per_thread = 64

    def engines(self) -> list[str]:
        """See `npdump.codecs.Codec.engines`."""
        return ["builtin"]

    def encoder(self, page_size: int, engine: str | None = None, level: int | None = None) -> EncodePages:
        """See `npdump.codecs.Codec.encoder`."""
        if CORE is not None:
            return Native(Call.COPY).encoder(page_size)

        def encode(pages: Any, rows: Any, out: Any, sizes: Any) -> int:
            made: int = len(rows) * page_size
            out[:made] = pages[rows].reshape(-1)  # a copy first: both may be the same memory
            sizes[:] = page_size
            return made

        return encode

    def decoder(self, page_size: int) -> DecodePages:
        """See `npdump.codecs.Codec.decoder`."""
        if CORE is not None:
            return Native(Call.COPY).decoder(page_size)
        return decoder_of(lambda page: page, page_size, ())


CODEC = Raw()
