# SPDX-License-Identifier: GPL-2.0-or-later
"""From traits to classes at one dump level: policy, blocks, and what contradicts them, in this order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.pages.blocks import Carry, cover
from npdump.pages.evidence import Evidence
from npdump.pages.policy import PageClass, Trait, table

if TYPE_CHECKING:
    from npdump.arrays import U8, U16, Bool
    from npdump.pages.columns import Columns

__all__ = ["Classifier"]

_HWPOISON = int(PageClass.HWPOISON)  # NumPy takes five times as long to compare with a member of an enum


class Classifier:
    """Gives pages their classes at a dump level.

    Parameters
    ----------
    level : int
        Dump level, 0 to 31.
    lowest_vaddr : int
        Lowest address of the kernel's.
    drops_unaccepted : bool
        Leave out memory that the guest has not accepted even where the level keeps free pages.
    """

    def __init__(self, level: int, lowest_vaddr: int, drops_unaccepted: bool = False) -> None:
        self._table = table(level, drops_unaccepted)
        self._evidence = Evidence(lowest_vaddr, level)

    def classify(
        self, columns: Columns, traits: U16, orders: U8, is_ram: Bool, pfn_start: int, carry: Carry
    ) -> tuple[U8, Carry]:
        """Return the class of each page.

        Parameters
        ----------
        columns : Columns
            Of the struct pages of n consecutive page frames.
        traits, orders : ndarray of shape (n,)
            See `npdump.pages.traits.traits_and_orders`.
        is_ram : ndarray of shape (n,), dtype bool
        pfn_start : int
            Page frame of the first struct page.
        carry : Carry
            Of the batch before.

        Returns
        -------
        classes : ndarray of shape (n,), dtype uint8
        carry : Carry
            For the next batch.
        """
        # take() with a mode makes no copy of the traits to check them: there are no others than the table has.
        classes = self._table.take(traits, mode="clip")
        if not is_ram.all():
            classes *= is_ram.view(np.uint8)
        # A broken page is one page, unless it's hugetlb: its mark is then on the head, for the whole of it.
        is_alone = (classes == _HWPOISON) & ((traits & np.uint16(Trait.HUGETLB)) == 0)
        if is_alone.any():
            orders = np.where(is_alone, np.uint8(0), orders)
        classes[self._evidence.against_firsts(columns, traits, orders, classes)] = PageClass.KEPT
        covered, inner, carry = cover(classes, orders, pfn_start, carry)
        covered[self._evidence.against_inner(columns, covered, inner, pfn_start)] = PageClass.KEPT
        return covered, carry
