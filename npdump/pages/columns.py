# SPDX-License-Identifier: GPL-2.0-or-later
"""Fields of struct pages as contiguous columns."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from npdump.arrays import U8, U32, U64, Bool, Index, Records
    from npdump.pages.struct_page import StructPage, TypeTest

__all__ = ["Columns"]

_U32_MINUS_1 = np.uint32(0xFFFFFFFF)
_TYPED = np.uint32(1 << 31)
"""A ``_mapcount`` with this bit, other than -1, is a page type."""


class Columns:
    """Fields of struct pages, each copied at most once, when it is first asked for.

    A field where it lies touches a cache line per page in every operation, and so does each copy of one: what looks at
    many pages shares one of these, and what looks at few takes their rows alone.

    Parameters
    ----------
    records : ndarray of shape (n,), dtype page.dtype
    page : StructPage
    rows : ndarray of shape (k,), dtype intp, optional
        Which of the records; all by default.
    """

    def __init__(self, records: Records, page: StructPage, rows: Index | None = None) -> None:
        self.records, self.page, self._rows = records, page, rows
        self.names = frozenset(records.dtype.names or ())

    def __len__(self) -> int:
        return len(self.records) if self._rows is None else len(self._rows)

    def of(self, rows: Index) -> Columns:
        """Return the columns of some of all the struct pages."""
        return Columns(self.records, self.page, rows)

    def column(self, name: str, dtype: type[np.unsignedinteger] = np.uint64) -> np.ndarray:
        """Return a field."""
        field = self.records[name]
        # What was selected is a copy; to make another is for other formats, and other orders of bytes.
        return field.astype(dtype) if self._rows is None else field[self._rows].astype(dtype, copy=False)

    def constant(self, value: bool) -> Bool:
        """Return the answer where the kernel has no field that would tell."""
        return np.full(len(self), value)

    @cached_property
    def flags(self) -> U32 | U64:
        """``flags``; only the lower half, which takes half the time, if all flags that are looked for are in it."""
        return self.column("flags", np.uint32 if self.page.all_flags < 1 << 32 else np.uint64)

    @cached_property
    def _any_flags(self) -> int:
        return int(np.bitwise_or.reduce(self.flags))

    def has_flag(self, mask: int) -> Bool:
        """Return which have any of these flags, of `StructPage.all_flags`."""
        # Most flags are on no page of a batch.
        if not self._any_flags & mask:
            return self.constant(False)
        return (self.flags & self.flags.dtype.type(mask)) != 0

    @cached_property
    def mapping(self) -> U64:
        """``mapping``, with the flags in its lowest bits."""
        return self.column("mapping")

    @cached_property
    def mapping_flags(self) -> U8:
        """The bits of ``mapping`` that aren't of the address (Linux PAGE_MAPPING_FLAGS)."""
        return self.mapping.astype(np.uint8) & np.uint8(3)

    @cached_property
    def mapcount(self) -> U32:
        """``_mapcount``, -1 where that isn't known."""
        if "mapcount" not in self.names:
            return np.full(len(self), _U32_MINUS_1)
        return self.column("mapcount", np.uint32)

    def is_type(self, test: TypeTest | None) -> Bool | None:
        """Return which are of a page type; None if that can't be told."""
        if test is None or "mapcount" not in self.names:
            return None
        return test.matches(self.mapcount)

    @cached_property
    def is_typed(self) -> Bool:
        """Whether the page has a page type."""
        return (self.mapcount >= _TYPED) & (self.mapcount != _U32_MINUS_1)

    @cached_property
    def is_mapped(self) -> Bool:
        """Whether page tables of users map the page."""
        return self.mapcount < _TYPED

    @cached_property
    def is_slab(self) -> Bool:
        """Whether the page is of the slab allocator."""
        is_slab = self.is_type(self.page.slab_type)
        return self.has_flag(self.page.slab) if is_slab is None else is_slab

    @cached_property
    def is_tail(self) -> Bool | None:
        """Whether the page is in a compound page, but not its first; None if the kernel has no mark for it."""
        if "compound" not in self.names:
            return None
        if self._rows is not None:
            return (self.column("compound") & np.uint64(1)) != 0
        # Only the byte with bit 0: a column of bytes is copied in less time than one of words.
        field, offset = self.records.dtype.fields["compound"][:2]  # type: ignore[index]
        if field != field.newbyteorder("<"):
            offset += field.itemsize - 1
        return (self.records.getfield(np.uint8, offset) & np.uint8(1)).view(np.bool_)

    @cached_property
    def links(self) -> tuple[U64, U64] | None:
        """Both words of ``lru``; None if it isn't known where they are."""
        return (self.column("next"), self.column("prev")) if self.names.issuperset(("next", "prev")) else None

    @cached_property
    def is_used(self) -> Bool:
        """Whether anybody is known to have a reference to the page."""
        return self.column("refcount", np.uint32) != 0 if "refcount" in self.names else self.constant(False)
