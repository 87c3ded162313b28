# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of a run in numbers, as makedumpfile's report and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How many pages there were, were left out by kind, and are left.

    Attributes
    ----------
    max_mapnr : int
        Page frames from 0 to the end of memory, holes included.
    n_ram : int
        Page frames that the input holds (bitmap 1).
    n_absent : int
        Pages that an earlier filter had left out of the input, or that were lost.
    n_zero, n_cache, n_cache_private, n_user, n_free, n_hwpoison, n_offline, n_extension : int
        Pages left out, by the kind that decided; a page counts once.
    n_shared : int
        Pages kept that are stored once with an equal one.
    n_elf_excluded : int or None
        Pages that an ELF output really lacks: runs too short to make a hole are kept. None for other formats.
    written_nbytes : int
        Bytes written to the output.
    seconds_by_stage : dict of str to float
        Wall-clock seconds.
    """

    max_mapnr: int
    n_ram: int
    n_absent: int = 0
    n_zero: int = 0
    n_cache: int = 0
    n_cache_private: int = 0
    n_user: int = 0
    n_free: int = 0
    n_hwpoison: int = 0
    n_offline: int = 0
    n_extension: int = 0
    n_shared: int = 0
    n_elf_excluded: int | None = None
    written_nbytes: int = 0
    seconds_by_stage: dict[str, float] = field(default_factory=dict)

    @property
    def n_hole(self) -> int:
        """Page frames without memory."""
        return self.max_mapnr - self.n_ram

    @property
    def n_excluded(self) -> int:
        """Pages left out, now or before."""
        return (
            self.n_absent
            + self.n_zero
            + self.n_cache
            + self.n_cache_private
            + self.n_user
            + self.n_free
            + self.n_hwpoison
            + self.n_offline
            + self.n_extension
        )

    @property
    def n_remaining(self) -> int:
        """Pages kept."""
        return self.n_ram - self.n_excluded

    @property
    def n_elf_remaining(self) -> int | None:
        """Pages that an ELF output holds; None for other formats."""
        return None if self.n_elf_excluded is None else self.n_ram - self.n_elf_excluded


def as_text(summary: Summary) -> str:
    """Lay out the report with the labels that scripts look for.

    References
    ----------
    makedumpfile 1.7.9: makedumpfile.c, print_report(); without its last line, on a cache that npdump does not have.
    """
    n_elf_excluded, n_elf_remaining = summary.n_elf_excluded, summary.n_elf_remaining
    lines = [
        "",
        f"Original pages  : {_hex(summary.n_ram)}",
        f"  Excluded pages   : {_hex(summary.n_excluded)}",
        *([] if n_elf_excluded is None else [f"     in ELF format : {_hex(n_elf_excluded)}"]),
        f"    Pages filled with zero  : {_hex(summary.n_zero)}",
        f"    Non-private cache pages : {_hex(summary.n_cache)}",
        f"    Private cache pages     : {_hex(summary.n_cache_private)}",
        f"    User process data pages : {_hex(summary.n_user)}",
        f"    Free pages              : {_hex(summary.n_free)}",
        f"    Hwpoison pages          : {_hex(summary.n_hwpoison)}",
        f"    Offline pages           : {_hex(summary.n_offline)}",
        f"    Extension filter pages  : {_hex(summary.n_extension)}",
        f"  Remaining pages  : {_hex(summary.n_remaining)}",
        *([] if n_elf_remaining is None else [f"     in ELF format : {_hex(n_elf_remaining)}"]),
        *([f"    Pages stored with an equal one : {_hex(summary.n_shared)}"] if summary.n_shared else []),
    ]
    if summary.n_ram:
        n_left = summary.n_remaining if n_elf_remaining is None else n_elf_remaining
        lines.append(f"  (The number of pages is reduced to {n_left * 100 // summary.n_ram}%.)")
    lines += [
        f"Memory Hole     : {_hex(summary.n_hole)}",
        "--------------------------------------------------",
        f"Total pages     : {_hex(summary.max_mapnr)}",
        f"Write bytes     : {summary.written_nbytes}",
        "",
    ]
    return "\n".join(lines)


def as_json(summary: Summary, facts: Mapping[str, object]) -> str:
    """Lay out the report as one JSON object: `facts` (dump level, kernel release …), then the numbers in decimal."""
    import json  # only here: it would cost every run a few milliseconds

    derived = {name: getattr(summary, name) for name in ("n_hole", "n_excluded", "n_remaining", "n_elf_remaining")}
    return json.dumps({**facts, **asdict(summary), **derived}, indent=2)


def _hex(n_pages: int) -> str:
    return f"0x{n_pages:016x}"
