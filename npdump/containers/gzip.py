"""Files that gzip compressed."""

from __future__ import annotations

import gzip
import zlib
from typing import BinaryIO, cast

__all__ = ["CONTAINER"]


class Gzip:
    """See `npdump.containers.Container`."""

    name = "gzip"
    magics = (b"\x1f\x8b",)
    errors = (gzip.BadGzipFile, zlib.error)

    def open(self, stream: BinaryIO) -> BinaryIO:
        """See `npdump.containers.Container.open`."""
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream, mode="rb"))


CONTAINER = Gzip()
