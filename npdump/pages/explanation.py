# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said of one page."""

from __future__ import annotations

from dataclasses import dataclass, field

from npdump.pages.html import facts_table

__all__ = ["PageExplanation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageExplanation:
    """What a page is, by which fields, and at which levels it is left out.

    Attributes
    ----------
    pfn : int
    paddr : int
        Physical address of the page.
    is_memory : bool
        Whether the dump had the page before any filter left it out.
    is_dumped : bool
        Whether its contents are in the dump.
    struct_page : int or None
        Kernel address of its struct page.
    fields : dict of str to int
        Of its struct page; empty if that is not there.
    meanings : dict of str to str
        What some of these hold in a page of this kind; in another kind they hold something else.
    flags : tuple of str
        Names of the page flags that are set.
    traits : dict of str to str
        What the fields say, each with the reason.
    place : str or None
        Node and zone, if the kernel's own types tell where these begin.
    use : str or None
        What the kernel uses the page for, where its own structures say that.
    head_pfn : int or None
        First page of the compound page or free block that the page is in; None if it is by itself.
    head_traits : dict of str to str
        As ``traits``, of that page.
    order : int
        Log2 of the pages of what it is in; 0 if it is by itself, as far as that is known.
    block_pfn : int
        First page frame of the block that the page goes or stays with; its own, if that block has one page.
    block_npages : int
    class_by_level : dict of int to str
        What it is left out as, a name of `PageClass` or ``ZERO``, at the levels at which it is left out.
    owner : str or None
        Whose it is, in words, on a host that ran Xen.
    """

    pfn: int
    paddr: int
    is_memory: bool
    is_dumped: bool
    struct_page: int | None
    fields: dict[str, int]
    meanings: dict[str, str] = field(default_factory=dict)
    flags: tuple[str, ...]
    traits: dict[str, str]
    place: str | None = None
    use: str | None = None
    head_pfn: int | None = None
    head_traits: dict[str, str] = field(default_factory=dict)
    order: int = 0
    block_pfn: int
    block_npages: int
    class_by_level: dict[int, str]
    owner: str | None = None

    def _repr_html_(self) -> str:
        levels: dict[str, list[str]] = {}
        for level, name in self.class_by_level.items():
            levels.setdefault(name, []).append(str(level))
        return facts_table(
            {
                "page frame": f"{self.pfn:#x}, at {self.paddr:#x}",
                "content": "is in the dump" if self.is_dumped else "is not in the dump",
                "in": self.place or "a zone that is not known",
                "used for": self.use or "not known",
                "flags": " ".join(self.flags) or "none",
                **{f"is {name}": why for name, why in self.traits.items()},
                **{name: f"{value:#x}" for name, value in self.fields.items()},
                **{f"left out as {name}": f"at levels {', '.join(numbers)}" for name, numbers in levels.items()},
            }
        )
