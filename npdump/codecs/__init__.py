# SPDX-License-Identifier: GPL-2.0-or-later
"""Page compressions, one file each.

To add one, add a module with a ``CODEC`` object: nothing else needs an edit. Two engines may serve one codec only if
each can decode what the other encodes. Importable without NumPy, and without any of the engines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from npdump import plugins
from npdump.errors import UsageError

if TYPE_CHECKING:
    from npdump.layouts.page_flag import PageFlag

__all__ = [
    "Codec",
    "DecodePages",
    "EncodePages",
    "all_codecs",
    "by_flag",
    "decoder_of",
    "encoder_of",
    "get",
    "out_nbytes",
]

EncodePages = Callable[[Any, Any, Any, Any], int]
"""Takes pages (an array of shape (n, page_size), dtype uint8), which of them to compress (rows, intp), where to put
them back to back (an array of uint8, of `out_nbytes` at least), and their sizes (uint32); returns how many bytes it
made. A page that doesn't become smaller stays as it is: its size tells.
"""

DecodePages = Callable[[Any, Any, Any, Any, Any], Any]
"""Takes a buffer, where in it the stored pages begin and how many bytes each has (arrays of dtype int64), pages to fill
(an array of shape (n, page_size), dtype uint8), and which of them (rows, intp); returns which became whole pages (an
array of bool). Several threads may use one decoder at once.
"""


class Codec(Protocol):
    """What a module of this package offers as ``CODEC``."""

    name: str
    flag: PageFlag
    levels: tuple[int, ...]
    """Compression levels, the default first."""
    min_batches_per_thread: int
    """How many batches pay for a thread."""

    def engines(self) -> list[str]:
        """Return, for each engine, its name with its version, or how to get it."""

    def encoder(self, page_size: int, engine: str | None = None, level: int | None = None) -> EncodePages:
        """Return a new encoder. It owns its state: each thread makes its own.

        Parameters
        ----------
        page_size : int
            Bytes.
        engine : str, optional
            Which of the engines; by default the first that is there.
        level : int, optional
            One of `levels`; by default the first.

        Raises
        ------
        MissingDependency
            If ``engine`` (default: every engine) isn't installed.
        UsageError
            If there is no such level.
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


def level_of(codec: Codec, level: int | None) -> int:
    """Return a codec's level; the default for None.

    Raises
    ------
    UsageError
        If it has no such level.
    """
    if level is None:
        return codec.levels[0]
    if level not in codec.levels:
        known = ", ".join(map(str, sorted(codec.levels)))
        raise UsageError(f"--codec-level {level}: {codec.name} compression has {known}")
    return level


def out_nbytes(npages: int, page_size: int) -> int:
    """Return how much room an encoder needs for some pages: one may grow, by 1/6 and 32 bytes at most, with snappy."""
    return npages * page_size + page_size // 6 + 128


def encoder_of(compress: Callable[[Sequence[Any]], list[Any]], page_size: int) -> EncodePages:
    """Make an encoder of a function that compresses the pages of a list one by one."""

    def encode_pages(pages: Any, rows: Any, out: Any, sizes: Any) -> int:
        plain = [pages[row] for row in rows.tolist()]
        encoded = compress(plain)
        lengths = list(map(len, encoded))
        for i, length in enumerate(lengths):
            if length >= page_size:
                encoded[i], lengths[i] = plain[i], page_size
        sizes[:] = lengths
        made = sum(lengths)
        memoryview(out)[:made] = b"".join(encoded)
        return made

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

    def decode_pages(data: Any, starts: Any, sizes: Any, out: Any, rows: Any) -> Any:
        view = memoryview(data)
        good = []
        for start, size, row in zip(starts.tolist(), sizes.tolist(), rows.tolist(), strict=True):
            try:
                page = decode(bytes(view[start : start + size]))
            except errors:
                page = b""
            good.append(len(page) == page_size)
            if good[-1]:
                memoryview(out[row])[:] = page
        return good

    return decode_pages
