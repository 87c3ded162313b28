# SPDX-License-Identifier: GPL-2.0-or-later
"""Struct pages whose other fields contradict the class that one field gives them: such pages are kept."""

from __future__ import annotations

import numpy as np
import pytest

from npdump.kernel.facts import vmcoreinfo
from npdump.pages.blocks import NO_CARRY
from npdump.pages.classes import Classifier
from npdump.pages.columns import Columns
from npdump.pages.evidence import Evidence
from npdump.pages.policy import PageClass
from npdump.pages.struct_page import describe
from npdump.pages.traits import traits_and_orders
from tests.builders.kernels import KERNELS
from tests.builders.notes import vmcoreinfo_text
from tests.builders.pages import POINTER, Block, encode_block

GENERATIONS = ("5.10", "6.12", "7.2")
LOWEST_VADDR = 0xFFFF800000000000
HEAD_VADDR = 0xFFFFEA0000000000
USER_ADDRESS = 0x7F0012345000
OFFLINE_TYPE = {name: kernel.mapcount["offline"] for name, kernel in KERNELS.items()}


def classes_of(generation: str, blocks: list[Block], level: int = 31) -> list[str]:
    """The classes that npdump gives to the pages of blocks, one after the other from page frame 0 on."""
    kernel = KERNELS[generation]
    keys: dict[str, int | str] = {"OSRELEASE": kernel.release}
    text = vmcoreinfo_text(keys | kernel.vmcoreinfo())
    page = describe(vmcoreinfo.parse(text), "<", 64)
    raw, pfn = b"", 0
    for block in blocks:
        assert block.pfn == pfn
        raw += encode_block(kernel, block, HEAD_VADDR + 64 * pfn)
        pfn += 1 << block.order
    records = np.frombuffer(raw, page.dtype)
    columns = Columns(records, page)
    traits, orders = traits_and_orders(columns, 0, 4096)
    is_ram = np.ones(len(records), np.bool_)
    found, _ = Classifier(level, LOWEST_VADDR).classify(columns, traits, orders, is_ram, 0, NO_CARRY)
    return [PageClass(int(number)).name for number in found]


RIGHT = {
    "FREE": Block(0, "free", 1),
    "CACHE": Block(0, "lru", 1),
    "CACHE_PRIVATE": Block(0, "private", 1),
    "USER": Block(0, "anon", 1),
    "OFFLINE": Block(0, "offline"),
}


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("name", RIGHT)
def test_pages_that_nothing_contradicts_go(generation, name) -> None:
    assert set(classes_of(generation, [RIGHT[name]])) == {name}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_what_is_in_the_swap_cache_alone_goes(generation) -> None:
    assert classes_of(generation, [Block(0, "swapcache")]) == ["CACHE"]


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize(
    "block",
    [
        Block(0, "hugetlb", 9),
        Block(0, "lru", fields={"mapping": POINTER | 1}),  # lazily freed: without PG_swapbacked
        Block(0, "ksm"),
        Block(0, "anon_unlisted"),
    ],
    ids=["hugetlb", "lazily freed", "ksm", "unlisted"],
)
def test_all_kinds_of_user_pages_go(generation, block) -> None:
    assert set(classes_of(generation, [block])) == {"USER"}


WRONG = {
    "free, with a user": Block(0, "free", 1, fields={"refcount": 1}),
    "free, and of a file": Block(0, "free", 1, fields={"mapping": POINTER}),
    "free, and linked to nowhere": Block(0, "free", 1, fields={"compound": USER_ADDRESS & ~1, "prev": USER_ADDRESS}),
    "cache of no address space": Block(0, "lru", fields={"mapping": USER_ADDRESS}),
    "cache, mapped, of nothing": Block(0, "lru", fields={"mapping": 0, "mapcount": 3}),
    "cache, and linked to nowhere": Block(0, "lru", fields={"compound": USER_ADDRESS & ~1, "prev": USER_ADDRESS}),
    "swap cache, without an entry": Block(0, "swapcache", fields={"private": 0}),
    "swap cache, and still of a file": Block(0, "swapcache", fields={"mapping": POINTER}),
    "swap cache, without a user": Block(0, "swapcache", fields={"refcount": 0}),
    "anonymous, without an anon_vma": Block(0, "anon", fields={"mapping": USER_ADDRESS | 1}),
    "huge, of one page": Block(0, "hugetlb"),
    "offline, with three users": Block(0, "offline", fields={"refcount": 3}),
}


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("name", WRONG)
def test_pages_that_are_contradicted_stay(generation, name) -> None:
    if name == "huge, of one page" and generation == "5.10":
        pytest.skip("there the second page says that it is huge")
    assert set(classes_of(generation, [WRONG[name]])) == {"KEPT"}


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("kind", ["lru", "anon", "anon_unlisted"])
def test_a_page_type_contradicts_cache_and_users(generation, kind) -> None:
    typed = Block(0, kind, fields={"mapcount": OFFLINE_TYPE[generation] + (0 if generation == "5.10" else 1)})
    assert "USER" not in classes_of(generation, [typed]) and "CACHE" not in classes_of(generation, [typed])


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_flag_of_the_lru_contradicts_free_and_offline(generation) -> None:
    on_lru = {"flags": KERNELS[generation].bit("lru")}
    # At a level that leaves out no cache.
    assert classes_of(generation, [Block(0, "free", 0, fields=on_lru)], 16) == ["KEPT"]
    assert classes_of(generation, [Block(0, "offline", fields=on_lru)], 16) == ["KEPT"]


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("level", [2, 4, 6])
def test_private_data_without_the_flag_stays_where_private_cache_does(generation, level) -> None:
    block = Block(0, "lru", fields={"private": POINTER})
    assert classes_of(generation, [block], level) == ["KEPT" if level == 2 else "CACHE"]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_of_a_free_block_only_the_page_with_a_user_stays(generation) -> None:
    """The head says order 2, and the third of its pages is in use: the order is wrong from there on, or the page."""
    head = Block(0, "free", 0, fields={"private": 2})
    idle = {"refcount": 0}
    pages = [head, Block(1, "kernel", fields=idle), Block(2, "kernel"), Block(3, "kernel", fields=idle)]
    assert classes_of(generation, pages) == ["FREE", "FREE", "KEPT", "FREE"]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_of_a_compound_page_only_tails_go(generation) -> None:
    """The head's order reaches two pages beyond the last tail."""
    pages = [Block(0, "anon", 1), Block(2, "kernel"), Block(3, "kernel")]
    assert classes_of(generation, pages) == ["USER", "USER", "KEPT", "KEPT"]


WORDS = (0, 1, 2, 0x1000, LOWEST_VADDR - 8, LOWEST_VADDR, LOWEST_VADDR + 1, LOWEST_VADDR + 6, HEAD_VADDR, 1 << 63)
MAPCOUNTS = (0xFFFFFFFF, 0, 1, 1 << 31, 0xF0000000, 0xFFFFFF7F)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("level", [2, 8, 14, 31])
def test_the_first_look_lets_nothing_pass_that_a_rule_would_stop(generation, level, monkeypatch) -> None:
    kernel = KERNELS[generation]
    keys: dict[str, int | str] = {"OSRELEASE": kernel.release}
    page = describe(vmcoreinfo.parse(vmcoreinfo_text(keys | kernel.vmcoreinfo())), "<", 64)
    draw, n = np.random.default_rng(level), 1 << 14
    records = np.zeros(n, page.dtype)
    for name in ("private", "next", "prev", "mapping"):  # the last of those that share a place stays
        records[name] = draw.choice(np.array(WORDS, np.uint64), n)
    records["mapcount"] = draw.choice(np.array(MAPCOUNTS, np.uint32), n, p=[0.5, *[0.1] * 5])
    records["refcount"] = draw.integers(0, 4, n)
    for flag in (page.lru, page.private, page.swapcache, page.swapbacked, page.slab):
        records["flags"] |= draw.choice(np.array([0, flag], np.uint64), n)
    columns, is_ram = Columns(records, page), np.ones(n, np.bool_)
    traits, orders = traits_and_orders(columns, 0, 4096)
    classifier = Classifier(level, LOWEST_VADDR)
    found, _ = classifier.classify(columns, traits, orders, is_ram, 0, NO_CARRY)
    monkeypatch.setattr(Evidence, "_doubtful", lambda evidence, columns, traits, classes: np.flatnonzero(classes))
    by_rules, _ = classifier.classify(columns, traits, orders, is_ram, 0, NO_CARRY)
    assert np.array_equal(found, by_rules)
    assert len(np.unique(found)) > 1
