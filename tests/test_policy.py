# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy, exhaustively: every combination of traits at every dump level, against a chain written otherwise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from npdump.pages.policy import DumpLevel, PageClass, Trait, decide, table

#: What makedumpfile 1.7.9 leaves out, after its manual page and `__exclude_unnecessary_pages()`, as a table of rules:
#: at the level with any bit of the first column, a page with all traits of the second and none of the third is of the
#: class in the fourth. The first rule that fits decides; None in the first column holds at every level.
RULES: list[tuple[int | None, str, str, str]] = [
    (None, "TAIL HWPOISON", "", "HWPOISON"),  # npdump's own: makedumpfile looks at no tail, and reads it
    (None, "TAIL", "", "KEPT"),
    (16, "BAD_ORDER", "", "KEPT"),
    (16, "FREE", "", "FREE"),
    (16, "UNACCEPTED", "", "UNACCEPTED"),
    (2, "CACHE", "PRIVATE ANON", "CACHE"),
    (4, "CACHE", "PRIVATE ANON", "CACHE"),  # leaving out private cache pages implies the others
    (4, "CACHE PRIVATE", "ANON", "CACHE_PRIVATE"),
    (8, "ANON", "", "USER"),
    (8, "HUGETLB", "", "USER"),
    (None, "HWPOISON", "", "HWPOISON"),
    (None, "OFFLINE", "", "OFFLINE"),
    (None, "", "", "KEPT"),
]
NAMES = [trait.name for trait in Trait]


def expected(traits: frozenset[str], level: int) -> str:
    """The class by the rules."""
    for bits, wanted, unwanted, page_class in RULES:
        if bits is not None and not level & bits:
            continue
        if traits.issuperset(wanted.split()) and traits.isdisjoint(unwanted.split()):
            return page_class
    raise AssertionError("the last rule fits everything")


@pytest.mark.parametrize("level", range(32))
def test_every_combination_of_traits(level: int) -> None:
    classes = table(level)
    assert classes.shape == (1 << len(NAMES),)
    for number, flags in enumerate(itertools.product((False, True), repeat=len(NAMES))):
        traits = frozenset(name for name, is_set in zip(NAMES, reversed(flags), strict=True) if is_set)
        wanted = expected(traits, level)
        assert PageClass(int(classes[number])).name == decide(number, level).name == wanted, sorted(traits)


def test_traits_are_bits_and_classes_are_counted_from_0() -> None:
    assert [trait.value for trait in Trait] == [1 << number for number in range(10)]
    assert [page_class.value for page_class in PageClass] == list(range(11))
    assert [level.value for level in DumpLevel] == [1, 2, 4, 8, 16]


def test_a_higher_level_leaves_out_no_less() -> None:
    left_out = [table(level) != PageClass.KEPT for level in range(32)]
    for level, bit in itertools.product(range(32), (1, 2, 4, 8)):
        assert not (left_out[level] & ~left_out[level | bit]).any()
    # A free block of a size that can't be keeps its page from everything else.
    gone = np.flatnonzero(left_out[15] & ~left_out[31])
    assert len(gone)
    assert all(int(traits) & Trait.BAD_ORDER for traits in gone)
