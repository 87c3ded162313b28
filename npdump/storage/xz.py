# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that xz compressed."""

from __future__ import annotations

from typing import BinaryIO, cast

__all__ = ["CONTAINER"]


class Xz:
    """See `npdump.storage.Container`."""

    name = "xz"
    magics = (b"\xfd7zXZ\0",)

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """See `npdump.storage.Container`."""
        import lzma  # here, as few inputs need it

        return (lzma.LZMAError,)

    def open(self, stream: BinaryIO) -> BinaryIO:
        """See `npdump.storage.Container.open`."""
        import lzma

        return cast("BinaryIO", lzma.LZMAFile(stream))


CONTAINER = Xz()
