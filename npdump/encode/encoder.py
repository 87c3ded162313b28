# SPDX-License-Identifier: GPL-2.0-or-later
"""From pages to what a dump file stores of them: what workers do."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npdump.encode.batches import is_zero
from npdump.layouts.page_flag import PageFlag
from npdump.sources import refuse

if TYPE_CHECKING:
    from npdump.arrays import U8, U32, Bool, Index
    from npdump.codecs import Codec
    from npdump.sources import CompressedPages, History, PageLocations

__all__ = ["Encoded", "PageEncoder", "StoredEncoder"]


ZERO_RATIO = 16
"""Every codec makes a zero page at least so many times smaller; snappy, the weakest, 21 times."""


class Encoded(NamedTuple):
    """Pages as they will stand in a dump file.

    Attributes
    ----------
    sizes : ndarray of shape (n,), dtype uint32
        Bytes of each page as stored; 0 for a zero page, which isn't.
    flags : ndarray of shape (n,), dtype uint32
        `PageFlag` of each page.
    data : buffer
        The stored pages, back to back; maybe a view of the encoder's buffer.
    """

    sizes: U32
    flags: U32
    data: Any

    def owned(self) -> Encoded:
        """Return the same pages, with data that the encoder's next call leaves alone."""
        return self if isinstance(self.data, bytes) else self._replace(data=bytes(self.data))


class PageEncoder:
    """Compresses pages; each worker makes its own.

    Parameters
    ----------
    codec : Codec
    engine : str or None
        Which of the codec's engines.
    page_size : int
        Bytes.
    """

    def __init__(self, codec: Codec, engine: str | None, page_size: int) -> None:
        self._flag = int(codec.flag)
        self._page_size = page_size
        self._encode = codec.encoder(page_size, engine)

    def __call__(self, pages: U8, rows: Index) -> Encoded:
        """Compress some of the pages (shape (n, page_size)); the data may be overwritten by the next call."""
        data, lengths = self._encode(pages, rows)
        sizes = np.array(lengths, np.uint32)
        return Encoded(sizes, np.where(sizes == self._page_size, np.uint32(0), np.uint32(self._flag)), data)


class StoredEncoder:
    """Copies pages that are compressed already, and changes only those that must.

    Parameters
    ----------
    source : CompressedPages
    history : History
        Of the source.
    encode : PageEncoder
    codec_flag : int
        That of ``encode``.
    page_size : int
        Bytes.
    drop_zero : bool
        Whether zero pages are left out.
    copy_compressed : bool
        Copy all as they are, whatever their compression.
    """

    def __init__(
        self,
        source: CompressedPages,
        history: History,
        encode: PageEncoder,
        codec_flag: int,
        page_size: int,
        drop_zero: bool,
        copy_compressed: bool,
    ) -> None:
        self._source = source
        self._history = history
        self._encode = encode
        self._flag = codec_flag
        self._page_size = page_size
        self._drop_zero = drop_zero
        self._copy_compressed = copy_compressed

    def __call__(self, stored: PageLocations) -> Encoded:
        """Make what is to be stored of stored pages."""
        sizes, flags = stored.nbytes.astype(np.uint32), stored.flags.copy()
        stays = ~stored.is_zero & self._stays(sizes, flags)
        changing = np.flatnonzero(~stays)
        if not len(changing):
            return Encoded(sizes, flags, self._source.joined(stored))
        pages = np.empty((len(changing), self._page_size), np.uint8)
        refuse(self._source.decode(stored[changing], pages))
        dropped = is_zero(pages) if self._drop_zero else np.zeros(len(pages), np.bool_)
        sizes[changing[dropped]] = flags[changing[dropped]] = 0
        changing, rows = changing[~dropped], np.flatnonzero(~dropped)
        sizes[changing], flags[changing], data = self._encode(pages, rows)
        staying = np.flatnonzero(stays)
        if not len(staying):
            return Encoded(sizes, flags, data)
        stops = np.cumsum(sizes[changing].astype(np.int64)).tolist()
        view = memoryview(data)
        pieces: list[Any] = [view[start:stop] for start, stop in pairwise([0, *stops])]
        buffers = dict(zip(changing.tolist(), pieces, strict=True))
        buffers |= zip(staying.tolist(), self._source.buffers(stored[staying]), strict=True)
        return Encoded(sizes, flags, b"".join(buffers[row] for row in sorted(buffers)))

    def _stays(self, sizes: U32, flags: U32) -> Bool:
        """Tell which stored pages are as they would become."""
        if self._copy_compressed:
            return np.ones(len(flags), np.bool_)
        stays = flags == self._flag
        if self._history.codec_flag == self._flag:
            # The same compression left these as they were.
            stays |= flags == PageFlag.RAW
        if self._drop_zero and not self._history.level & 1:
            # The file's writer didn't look for zero pages: these may be some.
            stays &= (flags != PageFlag.RAW) & (sizes > self._page_size // ZERO_RATIO)
        return stays
