# SPDX-License-Identifier: GPL-2.0-or-later
"""One colour and one name for each kind of page, in all pictures.

People with deuteranopia or protanopia tell them apart: the large kinds differ in lightness as well as in hue. The
palette began as Okabe and Ito's ("Color Universal Design", 2008).
"""

from __future__ import annotations

from npdump.pages.kinds import PageKind

__all__ = ["COLORS", "NAMES", "human"]

COLORS = {
    PageKind.ABSENT: "#ffffff",
    PageKind.KERNEL: "#0b4f8a",
    PageKind.SLAB: "#3fa0dc",
    PageKind.PAGE_TABLE: "#8a3ea8",
    PageKind.RESERVED: "#3a3f47",
    PageKind.CACHE: "#17a07c",
    PageKind.CACHE_PRIVATE: "#8fe0c4",
    PageKind.USER: "#f2a72e",
    PageKind.HUGETLB: "#c8501e",
    PageKind.FREE: "#ece7db",
    PageKind.OFFLINE: "#9a958c",
    PageKind.HWPOISON: "#e6007e",
    PageKind.UNACCEPTED: "#c9b5ea",
}

NAMES = {
    PageKind.ABSENT: "no memory",
    PageKind.KERNEL: "other kernel",
    PageKind.SLAB: "slab",
    PageKind.PAGE_TABLE: "page tables",
    PageKind.RESERVED: "reserved",
    PageKind.CACHE: "cache",
    PageKind.CACHE_PRIVATE: "private cache",
    PageKind.USER: "user",
    PageKind.HUGETLB: "hugetlb",
    PageKind.FREE: "free",
    PageKind.OFFLINE: "offline",
    PageKind.HWPOISON: "broken",
    PageKind.UNACCEPTED: "not accepted",
}


def human(nbytes: float) -> str:
    """Return a size for people, in binary units and three digits.

    Examples
    --------
    >>> human(512), human(208_715_776), human(1 << 40)
    ('512 B', '199 MiB', '1.00 TiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if nbytes < 1024 or unit == "TiB":
            break
        nbytes /= 1024
    if unit == "B":
        return f"{nbytes:.0f} B"
    digits = 2 if nbytes < 10 else 1 if nbytes < 100 else 0
    return f"{nbytes:.{digits}f} {unit}"
