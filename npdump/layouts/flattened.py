# SPDX-License-Identifier: GPL-2.0-or-later
"""The flattened format: a dump as records of (file offset, size, bytes), for pipes, which can't seek.

References
----------
makedumpfile ``IMPLEMENTATION``, "The flattened format"; all numbers are big endian.
"""

from __future__ import annotations

import struct

SIGNATURE = b"makedumpfile".ljust(16, b"\0")
HEADER_NBYTES = 4096
HEADER = struct.pack(">16sqq", SIGNATURE, 1, 1).ljust(HEADER_NBYTES, b"\0")
"""Signature, type, version."""

RECORD = struct.Struct(">qq")
"""Offset in the rearranged file, and number of bytes that follow."""

END_MARK = RECORD.pack(-1, -1)
