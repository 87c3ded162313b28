# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that zstd compressed."""

from __future__ import annotations

from typing import BinaryIO

from npdump.codecs import zstd
from npdump.errors import CodecError

__all__ = ["CONTAINER"]


class Zstd:
    """See `npdump.storage.Container`."""

    name = "zstd"
    magics = (b"\x28\xb5\x2f\xfd",)
    errors = (CodecError,)

    def open(self, stream: BinaryIO) -> BinaryIO:
        """See `npdump.storage.Container.open`."""
        return zstd.open_frames(stream)


CONTAINER = Zstd()
