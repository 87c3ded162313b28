# SPDX-License-Identifier: GPL-2.0-or-later
"""Page compressions, one file each.

To add one, add a module with a ``CODEC`` object: nothing else needs an edit. Two engines may serve one codec only if
each can decode what the other encodes. Importable without NumPy, and without any of the engines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from npdump import plugins
from npdump.errors import CodecError

if TYPE_CHECKING:
    from npdump.layouts.page_flag import PageFlag

__all__ = ["Codec", "DecodePages", "EncodePages", "all_codecs", "by_flag", "decoder_of", "encoder_of", "get"]

EncodePages = Callable[[Any, Any], tuple[Any, Sequence[int]]]
"""Takes pages (an array of shape (n, page_size), dtype uint8) and which of them to compress (ascending rows).

Returns a buffer that holds them compressed, back to back, and the size of each in bytes. A page that doesn't become
smaller stays as it is: its size tells. The next call may overwrite the buffer.
"""

DecodePages = Callable[[Sequence[Any]], list[Any]]
"""Takes the stored pages' buffers and returns, for each, a buffer of page-size bytes; raises CodecError if it can't."""


class Codec(Protocol):
    """What a module of this package offers as ``CODEC``."""

    name: str
    flag: PageFlag
    min_batches_per_worker: int | None
    """How many batches pay for a process of their own; None: it would do nothing but copy."""

    def engines(self) -> list[str]:
        """Return, for each engine, its name with its version, or how to get it."""

    def encoder(self, page_size: int, engine: str | None = None) -> EncodePages:
        """Return a new encoder. It owns its state: each worker makes its own.

        Raises
        ------
        MissingDependency
            If ``engine`` (default: every engine) isn't installed.
        """

    def decoder(self, page_size: int) -> DecodePages:
        """Return a new decoder, which never makes more than a small multiple of ``page_size`` of a page.

        Raises
        ------
        MissingDependency
            If no engine is installed.
        """


def all_codecs() -> Iterable[Codec]:
    """Return the codecs, in alphabetical order."""
    return plugins.each(__name__, "CODEC")


def get(name: str) -> Codec:
    """Return a codec by its name, which is that of its module.

    Raises
    ------
    ModuleNotFoundError
        If there is none.
    """
    codec: Codec = plugins.get(__name__, name, "CODEC")
    return codec


def by_flag(flag: int) -> Codec | None:
    """Return the codec that a page's flags name, None if there is none."""
    return next((codec for codec in all_codecs() if codec.flag == flag), None)


def encoder_of(compress: Callable[[Sequence[Any]], list[Any]], page_size: int) -> EncodePages:
    """Make an encoder of a function that compresses the pages of a list one by one."""

    def encode_pages(pages: Any, rows: Any) -> tuple[bytes, list[int]]:
        plain = [pages[row] for row in rows.tolist()]
        encoded = compress(plain)
        sizes = list(map(len, encoded))
        if sizes and max(sizes) >= page_size:
            for i, size in enumerate(sizes):
                if size >= page_size:
                    encoded[i], sizes[i] = plain[i], page_size
        return b"".join(encoded), sizes

    return encode_pages


def decoder_of(decode: Callable[[Any], Any], page_size: int, errors: tuple[type[Exception], ...]) -> DecodePages:
    """Make a decoder of a function that decodes one page.

    Parameters
    ----------
    decode : callable
        Takes a stored page.
    page_size : int
        What it must return, in bytes.
    errors : tuple of exception types
        What it raises for bad data.
    """

    def decode_pages(pages: Sequence[Any]) -> list[Any]:
        try:
            decoded = list(map(decode, pages))
        except errors as error:
            raise CodecError(f"doesn't uncompress ({error})") from None
        for page in decoded:
            if len(page) != page_size:
                raise CodecError(f"uncompresses to {len(page)} bytes instead of {page_size}")
        return decoded

    return decode_pages
