# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the kernel keeps the variables that each CPU has for itself.

A chunk has one unit for each CPU, all of one size and in each chunk as far apart; the first chunk begins with the
variables that the kernel's image declares.

References
----------
Linux ``mm/percpu.c``, ``mm/percpu-internal.h`` (struct pcpu_chunk).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from npdump.errors import FactError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.kernel.memory import VirtualMemory
    from npdump.kernel.own import Own

__all__ = ["MAX_CPUS", "Unit", "read_offsets", "read_units"]

MAX_CPUS = 1 << 13
MAX_SLOTS = 256
"""Lists of chunks, one for each power of 2 of free bytes and some more."""

MAX_CHUNKS = 1 << 10
MAX_UNITS = 1 << 17
MAX_UNIT_NBYTES = 1 << 26
"""Units have 32 KiB to some MiB; the largest machines have some chunks for each of thousands of CPUs."""


class Unit(NamedTuple):
    """A CPU's part of a chunk, which need not be mapped as a whole; ``is_first``: of the first chunk."""

    cpu: int
    vaddr: int
    nbytes: int
    is_first: bool


def read_offsets(memory: VirtualMemory, nr_cpu_ids: int, per_cpu_offset: int) -> list[int]:
    """Return what each CPU adds to the address of a per-CPU variable.

    Parameters
    ----------
    memory : VirtualMemory
    nr_cpu_ids, per_cpu_offset : int
        Addresses of the kernel's variables ``nr_cpu_ids`` and ``__per_cpu_offset``.

    Raises
    ------
    FactError
        If there would be no CPUs, or too many.
    AddressError
        If the variables are not in the dump.
    """
    n_cpus = memory.read_u32(nr_cpu_ids)
    if not 0 < n_cpus <= MAX_CPUS:
        raise FactError(f"there would be {n_cpus} CPUs: the dump is damaged")
    return memory.read_array(per_cpu_offset, memory.word, n_cpus).tolist()


def read_units(own: Own) -> list[Unit]:
    """Read where the per-CPU memory of each CPU is.

    Parameters
    ----------
    own : Own

    Raises
    ------
    FactError, AddressError
        If the kernel does not tell, or what it tells is damaged.
    """
    memory, word = own.memory, own.memory.word
    n_cpus, nbytes = memory.read_u32(own.symbol("nr_cpu_ids")), memory.read_u32(own.symbol("pcpu_unit_size"))
    if not 0 < n_cpus <= MAX_CPUS or not 0 < nbytes <= MAX_UNIT_NBYTES:
        raise FactError(f"there would be {n_cpus} CPUs with {nbytes} bytes each: the dump is damaged")
    first = memory.read_word(own.symbol("pcpu_base_addr"))
    offsets = memory.read_array(memory.read_word(own.symbol("pcpu_unit_offsets")), word, n_cpus).tolist()
    units = [Unit(cpu, first + offset, nbytes, True) for cpu, offset in enumerate(offsets)]
    of_first = [range(unit.vaddr, unit.vaddr + nbytes) for unit in units]
    for base in _chunk_bases(own):
        # The first chunk is in these lists as well, once or twice, with the places that may be given out.
        if not any(base in unit for unit in of_first):
            units += [Unit(cpu, base + offset, nbytes, False) for cpu, offset in enumerate(offsets)]
        if len(units) > MAX_UNITS:
            raise FactError(f"there would be more than {MAX_UNITS} pieces of per-CPU memory: the dump is damaged")
    return units


def _chunk_bases(own: Own) -> Iterator[int]:
    """Yield the address of the first unit of each chunk."""
    lists, n_slots = (
        own.memory.read_word(own.symbol("pcpu_chunk_lists")),
        own.memory.read_u32(own.symbol("pcpu_nr_slots")),
    )
    if not 0 < n_slots <= MAX_SLOTS:
        raise FactError(f"there would be {n_slots} lists of per-CPU chunks: the dump is damaged")
    link = own.offset("pcpu_chunk", "list")
    for slot in range(n_slots):
        for entry in own.follow(lists + slot * 2 * own.memory.word.itemsize, MAX_CHUNKS):
            yield own.read(entry - link, "pcpu_chunk", "base_addr")[0]
