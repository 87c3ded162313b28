# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that gzip compressed."""

from __future__ import annotations

from typing import BinaryIO, cast

__all__ = ["CONTAINER"]


class Gzip:
    """See `npdump.storage.Container`."""

    name = "gzip"
    magics = (b"\x1f\x8b",)

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """See `npdump.storage.Container`."""
        import gzip  # here, as few inputs need it
        import zlib

        return gzip.BadGzipFile, zlib.error

    def open(self, stream: BinaryIO) -> BinaryIO:
        """See `npdump.storage.Container.open`."""
        import gzip

        return cast("BinaryIO", gzip.GzipFile(fileobj=stream, mode="rb"))


CONTAINER = Gzip()
