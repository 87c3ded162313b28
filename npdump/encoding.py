"""A batch of pages, read and compressed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from npdump.bitmap import BoolArray
from npdump.codecs import Codec
from npdump.layouts.page_flag import PageFlag
from npdump.sources import OffersStored, Source, Stored
from npdump.storage import ByteArray
from npdump.stream import PageBatch, first_equal, is_zero

__all__ = ["BatchEncoder", "EncodedBatch"]

Words = npt.NDArray[np.uint32]

ZERO_RATIO = 16
"""Every codec makes a zero page at least so many times smaller; snappy, the weakest, 21 times."""


@dataclass(frozen=True)
class EncodedBatch:
    """Pages as they will stand in a dump file.

    Attributes
    ----------
    rank : int
        Number of kept pages before the first of these.
    sizes : ndarray of shape (n,), dtype uint32
        Bytes of each page as stored; 0 for a zero page, which isn't stored.
    flags : ndarray of shape (n,), dtype uint32
        `PageFlag` of each page.
    data : buffer
        The stored pages, back to back; maybe a view of the encoder's buffer.
    """

    rank: int
    sizes: npt.NDArray[np.uint32]
    flags: npt.NDArray[np.uint32]
    data: Any

    @property
    def nbytes(self) -> int:
        """Bytes of ``data``."""
        return len(self.data)

    def owned(self) -> EncodedBatch:
        """Return the same batch, with data that the encoder's next call leaves alone."""
        return self if isinstance(self.data, bytes) else replace(self, data=bytes(self.data))

    @property
    def n_zero(self) -> int:
        """How many pages are zero pages."""
        return int((self.sizes == 0).sum())


class BatchEncoder:
    """Reads and compresses batches; owns its buffers, so that each worker makes its own.

    Parameters
    ----------
    source : Source
        If it offers stored pages, those that are compressed as wanted are copied as they are.
    codec : Codec
    engine : str or None
        Which of the codec's engines.
    drop_zero : bool
        Whether zero pages are left out.
    batch_npages : int
        Most pages in a batch.
    as_stored : bool
        Copy all stored pages as they are, whatever their compression.
    """

    def __init__(
        self,
        source: Source,
        codec: Codec,
        engine: str | None,
        drop_zero: bool,
        batch_npages: int,
        as_stored: bool = False,
    ) -> None:
        self._source = source
        self._flag = int(codec.flag)
        self._encode = codec.encoder(source.page_size, engine)
        self._drop_zero = drop_zero
        self._as_stored = as_stored
        self._buffer: ByteArray = np.empty((batch_npages, source.page_size), np.uint8)

    def __call__(self, batch: PageBatch) -> EncodedBatch:
        """Read and compress a batch; its data may be overwritten by the next call."""
        if isinstance(self._source, OffersStored):
            return self._copy(batch.rank, self._source.stored(batch.runs))
        pages = self._buffer[: batch.npages]
        self._source.gather(batch.runs, pages)
        sizes, flags, stored = self._compress(pages)
        if not self._flag:
            return EncodedBatch(batch.rank, sizes, flags, _rows(pages, np.flatnonzero(sizes)))
        return EncodedBatch(batch.rank, sizes, flags, b"".join(stored))

    def _compress(self, pages: ByteArray) -> tuple[Words, Words, list[Any]]:
        """Return the size and flags of each page, and a buffer for each that is stored."""
        n, page_size = pages.shape
        sizes = np.zeros(n, np.uint32)
        flags = np.zeros(n, np.uint32)
        stored = np.flatnonzero(~is_zero(pages)) if self._drop_zero else np.arange(n)
        if not self._flag:
            sizes[stored] = page_size
            return sizes, flags, []
        # A fifth of the pages equal another one close by: compress one of them.
        first = first_equal(pages, stored)
        is_new = first == np.arange(len(stored))
        plain = [pages[i] for i in stored[is_new].tolist()]
        encoded = self._encode(plain)
        lengths = np.fromiter(map(len, encoded), np.uint32, len(encoded))
        is_raw = lengths >= page_size
        for i in np.flatnonzero(is_raw).tolist():
            encoded[i] = plain[i]
        if len(plain) < len(stored):
            which = (np.cumsum(is_new) - 1)[first]
            encoded = [encoded[i] for i in which.tolist()]
            lengths, is_raw = lengths[which], is_raw[which]
        sizes[stored] = np.where(is_raw, page_size, lengths)
        flags[stored] = np.where(is_raw, 0, self._flag)
        return sizes, flags, encoded

    def _copy(self, rank: int, stored: Stored) -> EncodedBatch:
        """Make a batch of stored pages; only those that must change are uncompressed."""
        sizes, flags = stored.sizes, stored.flags
        is_dropped = stored.is_zero if self._drop_zero else np.zeros(len(flags), np.bool_)
        stays = ~stored.is_zero & self._stays(sizes, flags)
        sizes[is_dropped] = flags[is_dropped] = 0
        changing = np.flatnonzero(~(stays | is_dropped))
        if not len(changing):
            return EncodedBatch(rank, sizes, flags, stored.joined(np.flatnonzero(stays)))
        pages = self._buffer[: len(changing)]
        stored.decode(changing, pages)
        sizes[changing], flags[changing], encoded = self._compress(pages)
        if not self._flag:
            encoded = list(pages[sizes[changing] > 0])
        if not stays.any():
            return EncodedBatch(rank, sizes, flags, b"".join(encoded))
        buffers = dict(zip(changing[sizes[changing] > 0].tolist(), encoded, strict=True))
        buffers |= zip(np.flatnonzero(stays).tolist(), stored.buffers(np.flatnonzero(stays)), strict=True)
        return EncodedBatch(rank, sizes, flags, b"".join(buffers[row] for row in sorted(buffers)))

    def _stays(self, sizes: Words, flags: Words) -> BoolArray:
        """Tell which stored pages are as they would become."""
        history = self._source.history
        if self._as_stored:
            return np.ones(len(flags), np.bool_)
        stays = flags == self._flag
        if history.codec_flag == self._flag:
            # The same compression left these as they were.
            stays |= flags == PageFlag.RAW
        if self._drop_zero and not history.level & 1:
            # The file's writer didn't look for zero pages: these may be some.
            stays &= (flags != PageFlag.RAW) & (sizes > self._source.page_size // ZERO_RATIO)
        return stays


def _rows(pages: ByteArray, rows: npt.NDArray[np.intp]) -> memoryview:
    """Return some of the pages back to back; all of them without a copy."""
    chosen = pages if len(rows) == len(pages) else pages[rows]
    return chosen.reshape(-1).data
