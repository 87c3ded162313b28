# SPDX-License-Identifier: GPL-2.0-or-later
"""From traits to classes at one dump level: policy, blocks, and what contradicts them, in this order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.pages.blocks import Carry, cover
from npdump.pages.evidence import Evidence
from npdump.pages.policy import PageClass, Trait, table

if TYPE_CHECKING:
    from npdump.arrays import U8, U16, Bool, Records
    from npdump.pages.struct_page import StructPage

__all__ = ["Classifier"]


class Classifier:
    """Gives pages their classes at a dump level.

    Parameters
    ----------
    page : StructPage
    level : int
        Dump level, 0 to 31.
    lowest_vaddr : int
        Lowest address of the kernel's.
    drops_unaccepted : bool
        Leave out memory that the guest has not accepted even where the level keeps free pages.
    """

    def __init__(self, page: StructPage, level: int, lowest_vaddr: int, drops_unaccepted: bool = False) -> None:
        self._table = table(level, drops_unaccepted)
        self._evidence = Evidence(page, lowest_vaddr, level)

    def classify(
        self, records: Records, traits: U16, orders: U8, is_ram: Bool, pfn_start: int, carry: Carry
    ) -> tuple[U8, Carry]:
        """Return the class of each page.

        Parameters
        ----------
        records : ndarray of shape (n,), dtype page.dtype
            Struct pages of consecutive page frames.
        traits, orders : ndarray of shape (n,)
            See `npdump.pages.traits.traits_and_orders`.
        is_ram : ndarray of shape (n,), dtype bool
        pfn_start : int
            Page frame of the first record.
        carry : Carry
            Of the batch before.

        Returns
        -------
        classes : ndarray of shape (n,), dtype uint8
        carry : Carry
            For the next batch.
        """
        classes = self._table[traits]
        classes[~is_ram] = PageClass.KEPT
        # A broken page is one page, unless it's hugetlb: its mark is then on the head, for the whole of it.
        is_alone = (classes == PageClass.HWPOISON) & ((traits & Trait.HUGETLB) == 0)
        if is_alone.any():
            orders = np.where(is_alone, np.uint8(0), orders)
        classes[self._evidence.against_firsts(records, traits, orders, classes)] = PageClass.KEPT
        covered, is_inner, carry = cover(classes, orders, pfn_start, carry)
        covered[self._evidence.against_inner(records, covered, is_inner, pfn_start)] = PageClass.KEPT
        return covered, carry
