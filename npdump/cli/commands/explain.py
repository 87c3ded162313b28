# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump explain``: what is this page, which fields made it so, and at which levels does it go."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from npdump.arrays import contains
from npdump.cli.commands.crashed import Crashed, open_crashed
from npdump.cli.inputs import load_external
from npdump.encode.batches import is_zero
from npdump.errors import AddressError, FactError, UsageError
from npdump.kernel.memmap import find
from npdump.kernel.probe import embedded_types
from npdump.pages.explain import explain, flag_names
from npdump.pages.free_lists import read_free_lists
from npdump.pages.policy import DumpLevel, PageClass
from npdump.pages.records import StructPages
from npdump.pages.struct_page import describe

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter
    from npdump.facts import Facts

__all__ = ["run"]

_WITHOUT_ENUM = 22
"""Bits of ``flags`` that are flags, where the kernel's own list isn't known; the rest are zone, node and section."""


def run(options: Options, report: Reporter) -> None:
    """Print the story of a page."""
    assert options.page is not None
    with open_crashed(options, report) as crashed:
        pfn, how = find_pfn(crashed, options.page)
        story = tell(crashed, pfn, _flag_enum(crashed, options, report), report) | {"named_by": how}
    report.answer(json.dumps(story, indent=1) if options.json else as_text(story))


def find_pfn(crashed: Crashed, text: str) -> tuple[int, str]:
    """Return the page frame that the user means, and how the text was understood.

    A number below the number of page frames is a page frame, one that can be a kernel address is that, any other is a
    physical address; ``pfn:``, ``vaddr:`` and ``paddr:`` before it say which.

    Raises
    ------
    UsageError, AddressError
    """
    kind, _, number = text.rpartition(":")
    try:
        value = int(number, 0) if not re.fullmatch("0[0-9]+", number) else int(number)
    except ValueError:
        value = -1
    if value < 0 or value >= 1 << 64 or kind not in ("", "pfn", "vaddr", "paddr"):
        raise UsageError(f"{text!r} is neither a page frame nor an address; see npdump --help")
    source = crashed.source
    if not kind:
        is_vaddr = crashed.kernel.memory.is_kernel_vaddr(value) and value >= source.max_mapnr * source.page_size
        kind = "pfn" if value < source.max_mapnr else "vaddr" if is_vaddr else "paddr"
    if kind == "vaddr":
        (extent,) = crashed.kernel.memory.extents(value, 1)
        if extent.paddr is None:
            raise AddressError(f"kernel address {value:#x} isn't mapped in the dump's page tables")
        pfn, how = extent.paddr // source.page_size, f"kernel address {value:#x}"
    elif kind == "paddr":
        pfn, how = value // source.page_size, f"physical address {value:#x}"
    else:
        pfn, how = value, f"page frame {value:#x}"
    if pfn >= source.max_mapnr:
        raise AddressError(f"{how}: memory ends at page frame {source.max_mapnr:#x}")
    return pfn, how


def _flag_enum(crashed: Crashed, options: Options, report: Reporter) -> dict[str, int]:
    """Return the bit numbers of the page flags by name, from the best source that there is."""
    given = load_external(options)
    if given is not None and given.types is not None:
        return given.types.enums.get("pageflags", {})
    try:
        own = embedded_types(crashed.kernel)
    except (FactError, AddressError) as error:
        report.warning(f"{error}: some flags have no names")
        own = None
    if own is not None and "pageflags" in own[1].enums:
        return own[1].enums["pageflags"]
    return _exported(crashed.kernel.facts)


def _exported(facts: Facts) -> dict[str, int]:
    names = {key[7:-1]: fact.value for key, fact in facts.items() if key.startswith("NUMBER(PG_")}
    head = names.pop("PG_head_mask", 0)
    if head > 0:
        names["PG_head"] = head.bit_length() - 1
    return names


def tell(crashed: Crashed, pfn: int, enum: dict[str, int], report: Reporter) -> dict[str, Any]:
    """Collect what `run` prints, in the order in which it's printed."""
    source, kernel = crashed.source, crashed.kernel
    page = describe(kernel.facts, kernel.memory.space.byte_order, crashed.arch.bits)
    memmap = find(kernel, page.nbytes, source.max_mapnr)
    free_blocks = read_free_lists(kernel, memmap, page, report.warning)
    told = explain(source, page, StructPages(source, kernel.memory, memmap, page.dtype), pfn, free_blocks)
    run = int(np.searchsorted(memmap.pfn_stops, pfn, side="right"))
    has_struct = run < len(memmap.pfn_starts) and int(memmap.pfn_starts[run]) <= pfn
    vaddr = int(memmap.vaddrs[run]) + (pfn - int(memmap.pfn_starts[run])) * page.nbytes if has_struct else 0
    n_flags = enum.get("__NR_PAGEFLAGS", max(enum.values(), default=_WITHOUT_ENUM - 1) + 1)
    is_dumped = contains(source.data_runs, pfn)
    levels = {level: page_class.name for level, page_class in told.class_by_level.items()}
    if is_dumped and bool(is_zero(source.view(pfn * source.page_size, source.page_size).reshape(1, -1))[0]):
        levels |= {level: levels.get(level, "ZERO") for level in range(32) if level & DumpLevel.ZERO}
    return {
        "pfn": pfn,
        "paddr": pfn * source.page_size,
        "is_memory": contains(source.ram_runs, pfn),
        "is_dumped": is_dumped,
        "struct_page": vaddr if has_struct else None,
        "fields": told.fields,
        "flags": flag_names(told.fields.get("flags", 0), enum, n_flags),
        "traits": told.traits,
        "block_pfn": told.head,
        "block_npages": 1 << told.order,
        "class_by_level": dict(sorted(levels.items())),
    }


def as_text(story: dict[str, Any]) -> str:
    """Lay the story out for reading."""
    where = "was left out by a filter" if story["is_memory"] else "isn't memory"
    lines = [
        f"page frame      {story['pfn']:#x}, at {story['paddr']:#x} ({story['named_by']})",
        f"content         {'is in the dump' if story['is_dumped'] else where}",
    ]
    if story["struct_page"] is None or not story["fields"]:
        lines.append("struct page     none: the page is kept at every level")
    else:
        lines.append(f"struct page     {story['struct_page']:#x}")
        lines += [f"  {name:<14}{value:#x}" for name, value in story["fields"].items()]
        lines.append(f"flags           {' '.join(story['flags']) or 'none'}")
        lines += [f"it is           {name}: {why}" for name, why in story["traits"].items()]
    if story["block_npages"] > 1:
        lines.append(f"block           {story['block_npages']} pages from {story['block_pfn']:#x} go together")
    by_class: dict[str, list[int]] = {}
    for level, name in story["class_by_level"].items():
        by_class.setdefault(name, []).append(level)
    if not by_class:
        lines.append("left out        at no level")
    for name, levels in by_class.items():
        lines.append(f"left out        as {_WORDS[name]} at {_levels(levels)}")
    return "\n".join(lines)


def _levels(levels: list[int]) -> str:
    """Name levels; if they are all that have certain bits, those."""
    if levels == list(range(32)):
        return "every level"
    return f"level{'s' if len(levels) > 1 else ''} {', '.join(map(str, levels))}"


_WORDS = {
    "ZERO": "a page of zeros",
    PageClass.CACHE.name: "page cache without private data",
    PageClass.CACHE_PRIVATE.name: "page cache with private data",
    PageClass.USER.name: "user data",
    PageClass.FREE.name: "free",
    PageClass.HWPOISON.name: "broken memory",
    PageClass.OFFLINE.name: "offline memory",
    PageClass.UNACCEPTED.name: "memory that the guest hasn't accepted",
}
