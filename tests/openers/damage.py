# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies of a dump, damaged where it hurts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

WORDS = (bytes(4), b"\xff" * 4, b"\1\0\0\0", b"\0\0\0\x80")


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A copy that is damaged mostly in its headers, sometimes in its pages, sometimes cut."""
    copy = bytearray(data)
    kind = chance.choice(["header", "header", "word", "page", "cut"])
    if kind == "cut":
        return bytes(copy[: chance.randrange(len(copy))])
    if kind == "word":
        at = chance.randrange(0, 8192, 4)
        copy[at : at + 4] = chance.choice(WORDS)
        return bytes(copy)
    limit = len(copy) if kind == "page" else chance.choice([512, 8192, 1 << 17])
    for _ in range(chance.randint(1, 4)):
        copy[chance.randrange(limit)] ^= 1 << chance.randrange(8)
    return bytes(copy)
