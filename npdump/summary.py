# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of a run in numbers."""

from dataclasses import dataclass, field

__all__ = ["Summary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How many pages there were, were left out by kind, and are left.

    Attributes
    ----------
    dump_level : int
        Of the output: with that of an input that was filtered before, without what was in doubt.
    format : str
        Output format, as `npdump.writers` names it.
    codec : str
        Page compression, as `npdump.codecs` names it.
    release : str or None
        The crashed kernel's release, if it is known.
    machine : str or None
        As `npdump.arch` names it.
    warnings : tuple of str
        What was said on the way: what is in doubt, lost, or kept for want of knowledge.
    max_mapnr : int
        Page frames from 0 to the end of memory, holes included.
    n_ram : int
        Page frames that the input holds (bitmap 1).
    n_absent : int
        Pages that an earlier filter had left out of the input, or that were lost.
    n_zero, n_cache, n_cache_private, n_user, n_free, n_hwpoison, n_offline, n_extension, n_guest, n_memmap : int
        Pages left out, by the kind that decided; a page counts once.
    n_removed : int
        Pages of memory that the kernel had given away before it crashed (virtio-mem, a DIMM): kept as any others.
    n_guarded : int
        Pages that a debugger cannot start without, kept although their struct pages say that they may go.
    n_shared : int
        Pages kept that are stored once with an equal one.
    n_lost : int
        Pages that should have been kept and could not be had.
    n_unreadable : int
        Those of them that the system could not read; the others are damaged in the input.
    n_elf_excluded : int or None
        Pages that an ELF output really lacks: runs too short to make a hole are kept. None for other formats.
    written_nbytes : int
        Bytes written to the output.
    seconds_by_stage : dict of str to float
        Wall-clock seconds.

    Examples
    --------
    >>> summary = Summary(max_mapnr=100, n_ram=80, n_free=30, n_zero=10)
    >>> summary.n_excluded, summary.n_remaining, summary.n_hole
    (40, 40, 20)
    """

    dump_level: int = 0
    format: str = "kdump"
    codec: str = "raw"
    release: str | None = None
    machine: str | None = None
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
    n_removed: int = 0
    n_guarded: int = 0
    n_guest: int = 0
    n_memmap: int = 0
    n_shared: int = 0
    n_lost: int = 0
    n_unreadable: int = 0
    n_elf_excluded: int | None = None
    written_nbytes: int = 0
    seconds_by_stage: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

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
            + self.n_guest
            + self.n_memmap
        )

    @property
    def n_remaining(self) -> int:
        """Pages kept."""
        return self.n_ram - self.n_excluded

    @property
    def n_elf_remaining(self) -> int | None:
        """Pages that an ELF output holds; None for other formats."""
        return None if self.n_elf_excluded is None else self.n_ram - self.n_elf_excluded
