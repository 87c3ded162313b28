# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that lz4 compressed, and a frame for a stream that several processes write."""

from __future__ import annotations

from typing import Any, BinaryIO, cast

from npdump.codecs._engines import Engine, choose

__all__ = ["CONTAINER", "Frame"]


def _load_lz4() -> Any:
    import lz4.frame  # type: ignore[import-untyped]

    return lz4.frame


_HINT = "apt-get or dnf install python3-lz4, or pip install lz4"
_ENGINES = {"lz4": Engine(_load_lz4, lambda module: module.library_version_string(), _HINT)}


class Lz4:
    """See `npdump.storage.Container`."""

    name = "lz4"
    magics = (b"\x04\x22\x4d\x18",)
    errors = (RuntimeError,)

    def open(self, stream: BinaryIO) -> BinaryIO:
        """See `npdump.storage.Container.open`."""
        return cast("BinaryIO", choose("lz4-compressed input", _ENGINES)[1].LZ4FrameFile(stream))


class Frame:
    """An lz4 frame made piece by piece: no block depends on another.

    Attributes
    ----------
    beginning, end : bytes
        What comes before and after all pieces.

    Raises
    ------
    MissingDependency

    References
    ----------
    LZ4 frame format description, 1.6 (independent blocks; EndMark).
    """

    end = bytes(4)

    def __init__(self) -> None:
        module = choose("--lz4", _ENGINES)[1]
        self._context = module.create_compression_context()
        self._compress = module.compress_chunk
        self.beginning: bytes = module.compress_begin(
            self._context, block_size=module.BLOCKSIZE_MAX4MB, block_linked=False, auto_flush=True
        )

    def piece(self, data: bytes) -> bytes:
        """Compress a piece, which may follow any other one."""
        return cast("bytes", self._compress(self._context, data))


CONTAINER = Lz4()
