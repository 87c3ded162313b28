# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts about struct page that cannot be true: each doubt names the pages that it keeps."""

from __future__ import annotations

import pytest

from npdump.facts import Fact, Facts
from npdump.pages.policy import DumpLevel
from npdump.pages.selfcheck.facts import check_facts

USER, FREE = DumpLevel.USER, DumpLevel.FREE
CACHE = DumpLevel.CACHE | DumpLevel.CACHE_PRIVATE

#: VMCOREINFO of Debian's Linux 6.12.95 on x86_64, as far as struct page goes.
LINUX_6_12 = {
    "SIZE(page)": 64,
    "OFFSET(page.flags)": 0,
    "OFFSET(page._refcount)": 52,
    "OFFSET(page.mapping)": 24,
    "OFFSET(page.lru)": 8,
    "OFFSET(page._mapcount)": 48,
    "OFFSET(page.private)": 40,
    "OFFSET(page.compound_head)": 8,
    "NUMBER(PG_lru)": 5,
    "NUMBER(PG_private)": 14,
    "NUMBER(PG_swapcache)": 10,
    "NUMBER(PG_swapbacked)": 17,
    "NUMBER(PG_hwpoison)": 20,
    "NUMBER(PG_head_mask)": 64,
    "NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)": -184549376,
    "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)": -268435456,
    "NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)": -201326592,
    "NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)": -251658240,
}


def doubts(release: str = "6.12.95", **changes: int | None) -> tuple[int, set[str]]:
    """The levels in doubt and the facts ignored, with some facts changed or (None) taken out."""
    known = {key: value for key, value in (LINUX_6_12 | changes).items() if value is not None}
    facts = Facts({key: Fact(value, "VMCOREINFO") for key, value in known.items()}, {"OSRELEASE": release})
    found = check_facts(facts, 64)
    level = 0
    for finding in found:
        level |= finding.level
    return level, {finding.ignored_fact for finding in found if finding.ignored_fact}


def test_a_real_kernel_raises_no_doubt() -> None:
    assert doubts() == (0, set())


@pytest.mark.parametrize(("release", "is_known"), [("6.12.95", True), ("7.3-amd64", True), ("7.4.1", False)])
def test_broken_pages_have_their_flag_where_flags_are_known(release, is_known) -> None:
    """PG_swapbacked is 17; on the real Linux 7.3-rc7 PG_hwpoison is 21."""
    assert doubts(release, **{"NUMBER(PG_hwpoison)": 21}) == (0, set())
    assert doubts(release, **{"NUMBER(PG_hwpoison)": 22}) == (0, {"NUMBER(PG_hwpoison)"} if is_known else set())


@pytest.mark.parametrize(
    ("key", "value", "level"),
    [
        ("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", -1, FREE),
        ("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", -513, FREE),
        ("NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)", -1, USER | FREE),
        ("OFFSET(page._mapcount)", None, USER | FREE),
        ("OFFSET(page.mapping)", 28, CACHE | USER),
        ("OFFSET(page.mapping)", 32, CACHE | USER),
        ("OFFSET(page.private)", 32, CACHE | FREE),
        ("NUMBER(PG_lru)", 14, CACHE),
        ("NUMBER(PG_lru)", 18, CACHE),
        ("NUMBER(PG_lru)", None, CACHE),
    ],
)
def test_what_is_in_doubt_is_named(key: str, value: int | None, level: int) -> None:
    assert doubts(**{key: value})[0] & level == level


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)", -1),
        ("NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)", -513),
        ("NUMBER(PG_hwpoison)", 0),
        ("NUMBER(PG_hwpoison)", 28),
        ("NUMBER(PAGE_UNACCEPTED_MAPCOUNT_VALUE)", -150994943),
    ],
)
def test_a_doubt_about_broken_and_offline_pages_is_about_these_alone(key: str, value: int) -> None:
    assert doubts(**{key: value}) == (0, {key})


def test_a_kernel_newer_than_any_known_may_number_its_page_types_anew() -> None:
    renumbered = {"NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)": 0xF9 << 24}
    assert doubts(**renumbered) == (0, {"NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)"})
    assert doubts("8.1.0", **renumbered) == (0, set())
