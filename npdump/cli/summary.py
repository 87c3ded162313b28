# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of a run, as makedumpfile's report and as JSON."""

from dataclasses import asdict

from npdump.summary import Summary

__all__ = ["as_json", "as_text"]


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
        *([f"    Pages of other domains  : {_hex(summary.n_guest)}"] if summary.n_guest else []),
        *([f"    Unneeded struct pages   : {_hex(summary.n_memmap)}"] if summary.n_memmap else []),
        f"  Remaining pages  : {_hex(summary.n_remaining)}",
        *([] if n_elf_remaining is None else [f"     in ELF format : {_hex(n_elf_remaining)}"]),
        *([f"    Pages that could not be had    : {_hex(summary.n_lost)}"] if summary.n_lost else []),
        *([f"    Pages of removed memory        : {_hex(summary.n_removed)}"] if summary.n_removed else []),
        *([f"    Pages that debuggers need      : {_hex(summary.n_guarded)}"] if summary.n_guarded else []),
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


def as_json(summary: Summary) -> str:
    """Lay out the report as one JSON object: what the dump is of, then the numbers in decimal."""
    import json  # only here: it would cost every run a few milliseconds

    derived = {name: getattr(summary, name) for name in ("n_hole", "n_excluded", "n_remaining", "n_elf_remaining")}
    return json.dumps({**asdict(summary), **derived}, indent=2)


def _hex(n_pages: int) -> str:
    return f"0x{n_pages:016x}"
