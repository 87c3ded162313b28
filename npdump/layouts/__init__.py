# SPDX-License-Identifier: GPL-2.0-or-later
"""Byte layouts of file formats: declarations only, no logic and no I/O."""

from typing import Literal

__all__ = ["ByteOrder"]

ByteOrder = Literal["<", ">"]
"""Little or big endian, as NumPy writes it."""
