"""Files that xz compressed."""

from __future__ import annotations

import lzma
from typing import BinaryIO, cast

__all__ = ["CONTAINER"]


class Xz:
    """See `npdump.containers.Container`."""

    name = "xz"
    magics = (b"\xfd7zXZ\0",)
    errors = (lzma.LZMAError,)

    def open(self, stream: BinaryIO) -> BinaryIO:
        """See `npdump.containers.Container.open`."""
        return cast(BinaryIO, lzma.LZMAFile(stream))


CONTAINER = Xz()
