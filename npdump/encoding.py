"""A batch of pages, read and compressed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from npdump.codecs import Codec
from npdump.sources import Source
from npdump.storage import ByteArray
from npdump.stream import PageBatch, first_equal, is_zero

__all__ = ["BatchEncoder", "EncodedBatch"]


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
    codec : Codec
    engine : str or None
        Which of the codec's engines.
    drop_zero : bool
        Whether zero pages are left out.
    batch_npages : int
        Most pages in a batch.
    """

    def __init__(self, source: Source, codec: Codec, engine: str | None, drop_zero: bool, batch_npages: int) -> None:
        self._source = source
        self._flag = int(codec.flag)
        self._encode = codec.encoder(source.page_size, engine)
        self._drop_zero = drop_zero
        self._buffer: ByteArray = np.empty((batch_npages, source.page_size), np.uint8)

    def __call__(self, batch: PageBatch) -> EncodedBatch:
        """Read and compress a batch; its data is its own, since workers hold several until each has its place."""
        n = batch.npages
        pages = self._buffer[:n]
        self._source.gather(batch.runs, pages)
        page_size = pages.shape[1]
        sizes = np.zeros(n, np.uint32)
        flags = np.zeros(n, np.uint32)
        stored = np.flatnonzero(~is_zero(pages)) if self._drop_zero else np.arange(n)
        if not self._flag:
            sizes[stored] = page_size
            return EncodedBatch(batch.rank, sizes, flags, pages[stored].reshape(-1).data)
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
        return EncodedBatch(batch.rank, sizes, flags, b"".join(encoded))
