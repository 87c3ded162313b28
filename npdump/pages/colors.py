# SPDX-License-Identifier: GPL-2.0-or-later
"""One colour and one name for each kind of page, in all pictures.

People who lack one kind of cones tell all of them apart: no two are nearer than 20 in CIE L*a*b* as they see them. The
palette began as Okabe and Ito's ("Color Universal Design", 2008) and was moved apart by computation.
"""

from __future__ import annotations

from npdump.pages.kinds import PageKind

__all__ = ["COLORS", "NAMES", "human"]

COLORS = {
    PageKind.ABSENT: "#ffffff",
    PageKind.KERNEL: "#095472",
    PageKind.SLAB: "#54a5eb",
    PageKind.PAGE_TABLE: "#8a12a5",
    PageKind.RESERVED: "#444b45",
    PageKind.CACHE: "#18885b",
    PageKind.CACHE_PRIVATE: "#84e08c",
    PageKind.USER: "#f2a72e",
    PageKind.HUGETLB: "#c56512",
    PageKind.FREE: "#f2eedd",
    PageKind.OFFLINE: "#b0aea4",
    PageKind.HWPOISON: "#e228a5",
    PageKind.UNACCEPTED: "#c4d9ff",
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
