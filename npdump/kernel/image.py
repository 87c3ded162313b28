# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the kernel's image, its per-CPU variables and its nodes are, by the symbols that the kernel carries itself.

What the kernel gives back once it has started is not counted in: code and data of its initialisation, and what fills
the gaps between sections.

References
----------
Linux ``arch/*/kernel/vmlinux.lds.S`` and ``include/asm-generic/vmlinux.lds.h`` for the sections;
``arch/x86/mm/init.c`` free_initmem(), ``arch/x86/mm/init_64.c`` mark_rodata_ro(), ``arch/x86/kernel/alternative.c``
and ``arch/x86/mm/mem_encrypt_amd.c`` mem_encrypt_free_decrypted_mem() for what is given back of them;
``mm/percpu.c``: of the memory of a CPU, what follows the static variables may be given back.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from npdump.arrays import join, subtract
from npdump.errors import AddressError, FactError
from npdump.kernel.facts import kallsyms
from npdump.kernel.nodes import nodes
from npdump.kernel.percpu import read_offsets

if TYPE_CHECKING:
    from npdump.kernel.kernel import Kernel

__all__ = [
    "code_areas",
    "constant_areas",
    "data_areas",
    "dynamic_per_cpu_areas",
    "find_symbols",
    "per_cpu_areas",
    "per_cpu_offsets",
    "section_areas",
]

MAX_IMAGE_NBYTES = 1 << 30
MAX_PER_CPU_NBYTES = 1 << 24
DYNAMIC_PER_CPU_NBYTES = 1 << 16
"""Linux PERCPU_MODULE_RESERVE and PERCPU_DYNAMIC_RESERVE are 8 and 20 to 28 KiB."""

MAX_ROOTS = 1 << 14

_CODE = (("_stext", "_etext"),)
_DATA = (("_sdata", "_edata"), ("__bss_start", "__bss_stop"), ("__start_ro_after_init", "__end_ro_after_init"))
_CONSTANTS = (("__start_rodata", "__end_rodata"), ("_edata", "__init_begin"), ("__init_end", "__bss_start"))
_FREED = (
    ("__init_begin", "__init_end"),
    ("__smp_locks", "__smp_locks_end"),
    ("__start_bss_decrypted_unused", "__end_bss_decrypted"),
)
_FREED_VARIABLES = ("vmlist",)
"""Of the initialisation since Linux v3.10 (``mm/vmalloc.c``), and named in files of facts that makedumpfile makes."""

_POINTERS = ("vmcoreinfo_data", "vmcoreinfo_note")
_OTHERS = (
    "linux_banner",
    "init_pid_ns",
    "init_task",
    "__per_cpu_offset",
    "__per_cpu_start",
    "__per_cpu_end",
    "__cpu_possible_mask",
)
_TASKS = ("nr_cpu_ids", "current_task", "pcpu_hot", "cpu_current_top_of_stack", "hardirq_stack_ptr", "__entry_task")

_WANTED = {*(name for pair in (*_CODE, *_DATA, *_CONSTANTS, *_FREED) for name in pair), *_POINTERS, *_OTHERS, *_TASKS}

Area = tuple[int, int]
"""An address of the kernel's and a number of bytes."""


def find_symbols(kernel: Kernel) -> dict[str, int]:
    """Return the addresses of what is wanted of the kernel's symbols, as far as it tells them.

    Raises
    ------
    FactError, AddressError
        If its table of symbols should be there, and is not or is damaged.
    """
    if not kallsyms.is_there(kernel.facts):
        return {}
    return kallsyms.find(kernel.facts, kernel.memory.read, kernel.memory.word, _WANTED)


def code_areas(symbols: dict[str, int]) -> list[Area]:
    """Return where the kernel's code is."""
    return _between(symbols, _CODE)


def constant_areas(symbols: dict[str, int]) -> list[Area]:
    """Return where the kernel's constants are, and tables such as those for unwinding stacks."""
    return _between(symbols, _CONSTANTS)


def section_areas(kernel: Kernel) -> list[Area]:
    """Return what leads to the struct pages: mem_section, its roots, and the nodes."""
    facts, memory = kernel.facts, kernel.memory
    areas = [(node, facts.get("SIZE(pglist_data)") or kernel.page_size) for node in nodes(kernel)]
    symbol, length = facts.get("SYMBOL(mem_section)"), facts.get("LENGTH(mem_section)") or 0
    if symbol is None or not 0 < length <= MAX_ROOTS:
        return areas
    # A pointer to the roots since Linux 83e3c48729d9, v4.15; before, and where it is none, they are there themselves.
    for roots in (memory.read_word(symbol), symbol):
        with suppress(AddressError):
            words = memory.read_array(roots, memory.word, length).tolist() if memory.is_kernel_vaddr(roots) else []
            areas += [(roots, length * memory.word.itemsize)] if words else []
            areas += [(root, kernel.page_size) for root in words if memory.is_kernel_vaddr(root)]
    return areas


def data_areas(kernel: Kernel, symbols: dict[str, int]) -> list[Area]:
    """Return where the kernel's variables are, those that VMCOREINFO names if nothing else is known, and its text."""
    word, page_size = kernel.memory.word.itemsize, kernel.page_size
    prefix, facts = "SYMBOL(", kernel.facts.items()
    named = {key[len(prefix) : -1]: fact.value for key, fact in facts if key.startswith(prefix)}
    variables = [vaddr for name, vaddr in named.items() if name not in _FREED_VARIABLES]
    variables += [symbols[name] for name in ("init_task", "linux_banner") if name in symbols]
    areas = [(vaddr, word) for vaddr in variables if kernel.memory.is_kernel_vaddr(vaddr)]
    pointers, _ = kernel.memory.read_words(
        np.array([symbols[name] for name in _POINTERS if name in symbols], np.uint64)
    )
    areas += [(vaddr, page_size) for vaddr in pointers.tolist() if kernel.memory.is_kernel_vaddr(vaddr)]
    return [*areas, *_between(symbols, _DATA)]


def _between(symbols: dict[str, int], pairs: tuple[tuple[str, str], ...]) -> list[Area]:
    """Return what is between pairs of symbols, without what is given back."""
    runs = [(symbols[a], symbols[b]) for a, b in pairs if a in symbols and symbols[a] < symbols.get(b, 0)]
    if not runs:
        return []
    base = min(start for start, _ in runs)
    if max(stop for _, stop in runs) - base > MAX_IMAGE_NBYTES:
        raise FactError("the kernel's symbols are too far apart for an image: the dump is damaged")
    freed = [(symbols[a], symbols[b]) for a, b in _FREED if a in symbols and symbols[a] < symbols.get(b, 0)]
    within = [(start - base, stop - base) for start, stop in freed if base <= stop and start - base <= MAX_IMAGE_NBYTES]
    image = join(np.array(sorted((start - base, stop - base) for start, stop in runs), np.int64))
    left = subtract(image, join(np.array(sorted(within), np.int64).reshape(-1, 2)))
    return [(base + start, stop - start) for start, stop in left.tolist()]


def per_cpu_offsets(kernel: Kernel, symbols: dict[str, int]) -> list[int]:
    """Return what each CPU adds to the address of a per-CPU variable; raises FactError or AddressError."""
    memory = kernel.memory
    missing = [name for name in ("__per_cpu_offset", "__cpu_possible_mask", "nr_cpu_ids") if name not in symbols]
    if missing:
        raise FactError(f"the kernel does not tell where {missing[0]} is")
    offsets = read_offsets(memory, symbols["nr_cpu_ids"], symbols["__per_cpu_offset"])
    n_bits = memory.word.itemsize * 8
    masks = memory.read_array(symbols["__cpu_possible_mask"], memory.word, -(-len(offsets) // n_bits)).tolist()
    # What is there for CPUs that cannot be, leads into memory that was given back.
    return [offset for cpu, offset in enumerate(offsets) if masks[cpu // n_bits] >> cpu % n_bits & 1]


def per_cpu_areas(kernel: Kernel, symbols: dict[str, int], offsets: list[int]) -> list[Area]:
    """Return where the static per-CPU variables of CPUs are; raises FactError."""
    start, stop = symbols.get("__per_cpu_start", 0), symbols.get("__per_cpu_end", 0)
    if not 0 < stop - start <= MAX_PER_CPU_NBYTES:
        raise FactError("the kernel does not tell how large its per-CPU variables are")
    mask = (1 << kernel.memory.word.itemsize * 8) - 1
    return [(start + offset & mask, stop - start) for offset in offsets]


def dynamic_per_cpu_areas(kernel: Kernel, symbols: dict[str, int], offsets: list[int]) -> list[Area]:
    """Return where the first per-CPU variables are that were allocated, those of ``crash_notes`` among them.

    They follow the static ones. How many there are is not told: what is named here may be other memory.
    """
    static = per_cpu_areas(kernel, symbols, offsets)
    return [(start + nbytes, DYNAMIC_PER_CPU_NBYTES) for start, nbytes in static]
