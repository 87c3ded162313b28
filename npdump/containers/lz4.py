"""Files that lz4 compressed."""

from __future__ import annotations

from typing import BinaryIO, cast

import lz4.frame  # type: ignore[import-untyped]

__all__ = ["CONTAINER"]


class Lz4:
    """See `npdump.containers.Container`."""

    name = "lz4"
    magics = (b"\x04\x22\x4d\x18",)
    errors = (RuntimeError,)

    def open(self, stream: BinaryIO) -> BinaryIO:
        """See `npdump.containers.Container.open`."""
        return cast(BinaryIO, lz4.frame.LZ4FrameFile(stream))


CONTAINER = Lz4()
