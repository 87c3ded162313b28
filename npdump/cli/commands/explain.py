# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump explain``: what is this page, which fields made it so, and at which levels does it go."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from npdump.cli.inputs import open_dump
from npdump.errors import AddressError, UsageError
from npdump.pages.policy import PageClass

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter
    from npdump.dump import Dump

__all__ = ["run"]


def run(options: Options, report: Reporter) -> None:
    """Print what pages are."""
    with open_dump(options, report) as dump:
        named = [find_pfn(dump, text) for text in options.pages]
        pages = [asdict(dump.page(pfn)) | {"named_by": how} for pfn, how in named]
    if options.json:
        report.answer(json.dumps(pages[0] if len(pages) == 1 else pages, indent=1))
    else:
        report.answer("\n\n".join(map(as_text, pages)))


def find_pfn(dump: Dump, text: str) -> tuple[int, str]:
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
        raise UsageError(f"{text!r} is neither a page frame nor an address; see npdump explain --help")
    source = dump.source
    if not kind:
        is_vaddr = dump.memory.is_kernel_vaddr(value) and value >= source.max_mapnr * source.page_size
        kind = "pfn" if value < source.max_mapnr else "vaddr" if is_vaddr else "paddr"
    if kind == "vaddr":
        pfn, how = dump.translate(value).pfn, f"kernel address {value:#x}"
    elif kind == "paddr":
        pfn, how = value // source.page_size, f"physical address {value:#x}"
    else:
        pfn, how = value, f"page frame {value:#x}"
    if pfn >= source.max_mapnr:
        raise AddressError(f"{how}: memory ends at page frame {source.max_mapnr:#x}")
    return pfn, how


def as_text(page: dict[str, Any]) -> str:
    """Lay an explanation out for reading."""
    where = "was left out by a filter" if page["is_memory"] else "isn't memory"
    lines = [
        f"page frame      {page['pfn']:#x}, at {page['paddr']:#x} ({page['named_by']})",
        f"content         {'is in the dump' if page['is_dumped'] else where}",
    ]
    if page["struct_page"] is None or not page["fields"]:
        lines.append("struct page     none: the page is kept at every level")
    else:
        lines.append(f"struct page     {page['struct_page']:#x}")
        lines += [f"  {name:<14}{value:#x}" for name, value in page["fields"].items()]
        lines.append(f"flags           {' '.join(page['flags']) or 'none'}")
        lines += [f"it is           {name}: {why}" for name, why in page["traits"].items()]
    if page["block_npages"] > 1:
        lines.append(f"block           {page['block_npages']} pages from {page['block_pfn']:#x} go together")
    by_class: dict[str, list[int]] = {}
    for level, name in page["class_by_level"].items():
        by_class.setdefault(name, []).append(level)
    if not by_class:
        lines.append("left out        at no level")
    for name, levels in by_class.items():
        lines.append(f"left out        as {_LABELS[name]} at {_levels(levels)}")
    return "\n".join(lines)


def _levels(levels: list[int]) -> str:
    """Name levels; if they are all that have certain bits, those."""
    if levels == list(range(32)):
        return "every level"
    return f"level{'s' if len(levels) > 1 else ''} {', '.join(map(str, levels))}"


_LABELS = {
    "ZERO": "a page of zeros",
    PageClass.CACHE.name: "page cache without private data",
    PageClass.CACHE_PRIVATE.name: "page cache with private data",
    PageClass.USER.name: "user data",
    PageClass.FREE.name: "free",
    PageClass.HWPOISON.name: "broken memory",
    PageClass.OFFLINE.name: "offline memory",
    PageClass.UNACCEPTED.name: "memory that the guest hasn't accepted",
}
