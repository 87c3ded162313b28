# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump explain``: what is this page, which fields made it so, and at which levels does it go."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from itertools import combinations
from typing import TYPE_CHECKING, Any

from npdump.cli.inputs import open_dump
from npdump.errors import AddressError, UsageError
from npdump.pages.policy import PageClass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.cli.options import Options
    from npdump.cli.report import Reporter
    from npdump.dump import Dump

__all__ = ["run"]


MAX_RANGE_NPAGES = 4096
"""Pages that one argument may name."""

_RANGE = re.compile(r"(?:pfn:)?(\w+)-(\w+)")
_SYMBOL = re.compile(r"([A-Za-z_.$][\w.$]*)(?:\+(\w+))?")


def run(options: Options, report: Reporter) -> None:
    """Print what pages are."""
    with open_dump(options, report) as dump:
        named = [pair for text in options.pages for pair in find_pfns(dump, text)]
        pages = [asdict(dump.page(pfn)) | {"named_by": how} for pfn, how in named]
    if options.json:
        answers = [as_json(page) for page in pages]
        report.answer(json.dumps(answers[0] if len(answers) == 1 else answers, indent=1))
    else:
        report.answer("\n\n".join(map(as_text, pages)))


def as_json(page: dict[str, Any]) -> dict[str, Any]:
    """Return an explanation with addresses, and what may hold one, as texts in hexadecimal."""
    struct_page = page["struct_page"]
    return page | {
        "paddr": hex(page["paddr"]),
        "struct_page": None if struct_page is None else hex(struct_page),
        "fields": {name: hex(value) for name, value in page["fields"].items()},
    }


def find_pfns(dump: Dump, text: str) -> Iterator[tuple[int, str]]:
    """Yield the page frames that the user means, and how the text was understood.

    A number below the number of page frames is a page frame, one that can be a kernel address is that, any other is a
    physical address; ``pfn:``, ``vaddr:`` and ``paddr:`` before it say which. ``FIRST-LAST`` are page frames, and a
    word that is no number is a symbol of the kernel, with ``+`` and an offset or without.

    Raises
    ------
    UsageError, AddressError, FactError
    """
    if (found := _RANGE.fullmatch(text)) and (first := _number(found[1])) >= 0 and (last := _number(found[2])) >= 0:
        if not 0 <= last - first < MAX_RANGE_NPAGES:
            raise UsageError(f"{text!r} isn't a range of 1 to {MAX_RANGE_NPAGES} page frames")
        for pfn in range(first, last + 1):
            yield _checked(dump, pfn, f"page frame {pfn:#x}")
        return
    kind, _, number = text.rpartition(":")
    value = _number(number)
    if value < 0 and not kind and (found := _SYMBOL.fullmatch(text)):
        vaddr = dump.symbol(found[1]) + max(_number(found[2] or "0"), 0)
        yield _checked(dump, dump.translate(vaddr).pfn, f"{text}, kernel address {vaddr:#x}")
        return
    if not 0 <= value < 1 << 64 or kind not in ("", "pfn", "vaddr", "paddr"):
        raise UsageError(f"{text!r} is no page frame, address or symbol; see npdump explain --help")
    source = dump.source
    if not kind:
        is_vaddr = dump.memory.is_kernel_vaddr(value) and value >= source.max_mapnr * source.page_size
        kind = "pfn" if value < source.max_mapnr else "vaddr" if is_vaddr else "paddr"
    if kind == "vaddr":
        yield _checked(dump, dump.translate(value).pfn, f"kernel address {value:#x}")
    elif kind == "paddr":
        yield _checked(dump, value // source.page_size, f"physical address {value:#x}")
    else:
        yield _checked(dump, value, f"page frame {value:#x}")


def _number(text: str) -> int:
    """Read a number in C notation, decimal with zeros before it too; -1 if it is none."""
    try:
        return int(text) if re.fullmatch("0[0-9]+", text) else int(text, 0)
    except ValueError:
        return -1


def _checked(dump: Dump, pfn: int, how: str) -> tuple[int, str]:
    if pfn >= dump.source.max_mapnr:
        raise AddressError(f"{how}: memory ends at page frame {dump.source.max_mapnr:#x}")
    return pfn, how


def as_text(page: dict[str, Any]) -> str:
    """Lay an explanation out for reading."""
    where = "was left out by a filter" if page["is_memory"] else "isn't memory"
    lines = [
        f"page frame      {page['pfn']:#x}, at {page['paddr']:#x} ({page['named_by']})",
        f"content         {'is in the dump' if page['is_dumped'] else where}",
    ]
    if page["owner"] is not None:
        lines.append(f"owner           {page['owner']}")
    if page["struct_page"] is None or not page["fields"]:
        lines.append("struct page     none: the page is kept at every level")
    else:
        lines += _of_struct_page(page)
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


def _of_struct_page(page: dict[str, Any]) -> list[str]:
    """Say what the struct page tells, and the block that the page is in."""
    lines = [f"in              {page['place']}"] if page["place"] else []
    if page["use"]:
        lines.append(f"used for        {page['use']}")
    if page["head_pfn"] is not None:
        which = "the first" if page["head_pfn"] == page["pfn"] else f"page {page['pfn'] - page['head_pfn']}"
        of = f"{1 << page['order']} pages from {page['head_pfn']:#x}, order {page['order']}"
        lines.append(f"it is           {which} of {of}")
    lines.append(f"struct page     {page['struct_page']:#x}")
    for name, value in page["fields"].items():
        meaning = page["meanings"].get(name)
        lines.append(f"  {name:<14}{value:#x}{f' ({meaning})' if meaning else ''}")
    lines.append(f"flags           {' '.join(page['flags']) or 'none'}")
    lines += [f"it is           {name}: {why}" for name, why in page["traits"].items()]
    return lines + [f"the first is    {name}: {why}" for name, why in page["head_traits"].items()]


def _levels(levels: list[int]) -> str:
    """Name levels; if they are all those with one of some bits and without others, or with all of some, these."""
    if levels == list(range(32)):
        return "every level"
    bits = [1 << i for i in range(5)]
    for n in range(len(bits) + 1):
        for without in combinations(bits, n):
            rest = [level for level in range(32) if not any(level & bit for bit in without)]
            words = f" without {' or '.join(map(str, without))}" if without else ""
            if levels == rest:
                return f"every level{words}"
            for n_with in range(1, len(bits) - n + 1):
                for chosen in combinations([bit for bit in bits if bit not in without], n_with):
                    if levels == [level for level in rest if any(level & bit for bit in chosen)]:
                        return f"every level with {' or '.join(map(str, chosen))}{words}"
                    if n_with > 1 and levels == [level for level in rest if all(level & bit for bit in chosen)]:
                        return f"every level with {' and '.join(map(str, chosen))}{words}"
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
    PageClass.GUEST.name: "a page of another domain",
    PageClass.MEMMAP.name: "struct pages that aren't needed",
}
