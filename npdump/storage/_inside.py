# SPDX-License-Identifier: GPL-2.0-or-later
"""What storages have in common whose bytes are in another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from npdump.arrays import U8
    from npdump.storage import Storage

__all__ = ["Inside"]


class Inside:
    """Some methods of `npdump.storage.Storage`.

    Parameters
    ----------
    inner : Storage
    """

    def __init__(self, inner: Storage) -> None:
        self._inner = inner
        self.path = inner.path

    def close(self) -> None:
        """Do nothing: the file belongs to who opened it."""

    def same_file(self, other: os.stat_result) -> bool:
        """See `npdump.storage.Storage.same_file`."""
        return self._inner.same_file(other)

    def read(self, offset: int, nbytes: int) -> bytes:
        """See `npdump.storage.Storage.read`."""
        return self.view(offset, nbytes).tobytes()

    def view(self, offset: int, nbytes: int) -> U8:
        """See `npdump.storage.Storage.view`."""
        raise NotImplementedError
