# SPDX-License-Identifier: GPL-2.0-or-later
"""The flattened format: the file that its records make."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

HEADER_NBYTES = 4096
RECORD = struct.Struct(">qq")


def unflatten(flattened: Path, path: Path) -> Path:
    """Write the file."""
    data = flattened.read_bytes()
    if data[:16] != b"makedumpfile".ljust(16, b"\0"):
        raise ValueError(f"{flattened}: not flattened: {data[:16]!r}")
    at = HEADER_NBYTES
    with open(path, "wb") as file:
        while True:
            offset, size = RECORD.unpack_from(data, at)
            at += RECORD.size
            if offset == size == -1:
                break
            file.seek(offset)
            file.write(data[at : at + size])
            at += size
    if at != len(data):
        raise ValueError(f"{flattened}: {len(data) - at} bytes behind the end mark")
    return path
