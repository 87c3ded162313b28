# SPDX-License-Identifier: GPL-2.0-or-later
"""The crashed kernel's symbols and types by name, of the kernel itself and of its modules, whatever tells them.

The dump tells most by itself: its table of symbols (kallsyms), its types (BTF), and both of each module. What no BTF
tells is of which type a variable is; that takes debug information.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from npdump.errors import AddressError, CodecError, FactError, SourceError
from npdump.kernel import modules
from npdump.kernel.facts import kallsyms
from npdump.kernel.facts.btf_graph import BtfGraph
from npdump.kernel.probe import MAX_BTF_NBYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from npdump.kernel.facts.graph import CType, TypeGraph
    from npdump.kernel.kernel import Kernel
    from npdump.kernel.modules import Module

__all__ = ["KERNEL", "Names"]

KERNEL = "vmlinux"
"""Stands for the kernel where the name of a module is asked for."""

KNOWN_VARIABLES = {
    **dict.fromkeys(("modules", "super_blocks", "slab_caches", "vmap_area_list", "btf_modules"), "list_head"),
    "init_cred": "cred",
    "init_mm": "mm_struct",
    "init_net": "net",
    "init_nsproxy": "nsproxy",
    "init_pid_ns": "pid_namespace",
    "init_task": "task_struct",
    "init_user_ns": "user_namespace",
    "init_uts_ns": "uts_namespace",
    "iomem_resource": "resource",
    "ioport_resource": "resource",
    "root_user": "user_struct",
}
"""Types of variables that no BTF tells, as Linux v6.1 declares them; kernels without such a variable have no symbol."""


class Names:
    """Symbols and types by name.

    Parameters
    ----------
    kernel : Kernel
    graphs : sequence of TypeGraph
        Of a vmlinux, the best one first.
    linked : dict of str to int
        Addresses of the symbols of that vmlinux, as linked.
    debug_graphs : callable, optional
        Returns the type graphs of a module's debug information, and its symbols, by the module's name.

    Raises
    ------
    FactError, AddressError
        Whenever something is asked for, if what tells it is damaged or not in the dump.
    """

    def __init__(
        self,
        kernel: Kernel,
        graphs: Sequence[TypeGraph] = (),
        linked: dict[str, int] | None = None,
        debug_graphs: Callable[[str], tuple[list[TypeGraph], dict[str, int]]] = lambda name: ([], {}),
    ) -> None:
        self._kernel = kernel
        self._given = list(graphs)
        self._linked = linked or {}
        self._debug_graphs = debug_graphs
        self._of_module: dict[str, tuple[list[TypeGraph], dict[str, int]]] = {}

    @property
    def kernel(self) -> Kernel:
        """The crashed kernel."""
        return self._kernel

    @cached_property
    def _symbols(self) -> dict[str, int]:
        """The kernel's symbols where it runs: those of its own table, which may lack variables, and of the vmlinux."""
        kernel = self._kernel
        stext = kernel.facts.get("SYMBOL(_stext)")
        symbols: dict[str, int] = {}
        if stext is not None and "_stext" in self._linked:
            offset = stext - self._linked["_stext"]
            symbols = {name: value + offset & (1 << 64) - 1 for name, value in self._linked.items()}
        if kallsyms.is_there(kernel.facts):
            with suppress(AddressError, FactError, SourceError, CodecError):
                symbols |= kallsyms.read(kernel.facts, kernel.memory.read, kernel.memory.word)
        return symbols

    @cached_property
    def _graphs(self) -> list[TypeGraph]:
        """What tells the kernel's types; for structs BTF, where everything is found at once, comes first."""
        own = self._own_btf
        graphs: list[TypeGraph] = [] if own is None else [own]
        return graphs + sorted(self._given, key=lambda graph: graph.origin != "BTF")

    @cached_property
    def _own_btf(self) -> BtfGraph | None:
        """The types that the kernel carries, None if it carries none that are in the dump."""
        start, stop = self._symbols.get("__start_BTF", 0), self._symbols.get("__stop_BTF", 0)
        if not 0 < stop - start <= MAX_BTF_NBYTES:
            return None
        memory = self._kernel.memory
        try:
            return BtfGraph(memory.read(start, stop - start), memory.space.byte_order, memory.word.itemsize)
        except (AddressError, FactError, SourceError, CodecError):
            return None

    @cached_property
    def modules(self) -> dict[str, Module]:
        """The loaded modules by name."""
        head = self._symbols.get("modules")
        record = self.find_record("module")
        if head is None or record is None:
            return {}
        btf_head, btf_record = self._symbols.get("btf_modules"), self.find_record("btf_module")
        return modules.find_modules(self._kernel.memory, head, record, btf_head, btf_record)

    def symbol(self, name: str, module: str = KERNEL) -> int | None:
        """Return the address of a symbol, None if there is none.

        Parameters
        ----------
        name : str
        module : str
            Where to look first; what a module does not have may be the kernel's.
        """
        found = None if module == KERNEL else self._module(module)[1].get(name)
        return self._symbols.get(name, self._kernel.facts.get(f"SYMBOL({name})")) if found is None else found

    def need_symbol(self, name: str, module: str = KERNEL) -> int:
        """Return the address of a symbol.

        Raises
        ------
        FactError
            If there is none; it says so if that may be for want of a vmlinux.
        """
        vaddr = self.symbol(name, module)
        if vaddr is None:
            # Without CONFIG_KALLSYMS_ALL a kernel's table has functions alone.
            has_variables = "init_task" in self._symbols
            hint = "" if has_variables else ": this kernel has no table of its variables; give -x VMLINUX"
            raise FactError(f"{name}: there is no such symbol{hint}")
        return vaddr

    def is_given_back(self, vaddr: int) -> bool:
        """Return whether an address is in the part of the kernel that it frees when it has started."""
        return self._symbols.get("__init_begin", 0) <= vaddr < self._symbols.get("__init_end", 0)

    def variable(self, name: str, module: str = KERNEL) -> CType | None:
        """Return the type of a global variable, None if nothing tells it."""
        if module != KERNEL and name in self._module(module)[1]:
            graphs, linked = self._debug_graphs(module)
            return _first(graph.variable(name, linked.get(name)) for graph in graphs)
        told = _first(graph.variable(name, self._linked.get(name)) for graph in self._given)
        return self.find_record(KNOWN_VARIABLES[name]) if told is None and name in KNOWN_VARIABLES else told

    def find_record(self, name: str, module: str = KERNEL) -> CType | None:
        """Return the struct or union of a name, None if nothing tells it."""
        graphs = self._graphs if module == KERNEL else [*self._module(module)[0], *self._graphs]
        return _first(graph.record(name) for graph in graphs)

    def record(self, name: str, module: str = KERNEL) -> CType:
        """Return the struct or union of a name.

        Raises
        ------
        FactError
            If nothing tells it.
        """
        found = self.find_record(name, module)
        if found is None:
            hint = "" if self._graphs else ": neither the dump nor a vmlinux tells the kernel's types; give -x VMLINUX"
            raise FactError(f"struct {name}: there is no such type{hint}")
        return found

    def _module(self, name: str) -> tuple[list[TypeGraph], dict[str, int]]:
        known = self._of_module.get(name)
        if known is None:
            module = self.modules.get(name)
            if module is None:
                raise FactError(f"module {name}: is not loaded")
            memory = self._kernel.memory
            graphs: list[TypeGraph] = []
            if module.btf and self._own_btf is not None:
                raw = memory.read(module.btf, min(module.btf_nbytes, MAX_BTF_NBYTES))
                graphs.append(BtfGraph(raw, memory.space.byte_order, memory.word.itemsize, self._own_btf))
            known = self._of_module[name] = graphs, modules.symbols_of(memory, module)
        return known


def _first(found: Iterable[CType | None]) -> CType | None:
    return next((one for one in found if one is not None), None)
