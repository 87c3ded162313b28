# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel carries of its own symbols and types, and its structs read by them.

Kernels since v6.0 name their symbol table in VMCOREINFO, and most carry BTF. What is not there is not known.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import AddressError, FactError
from npdump.kernel.facts import kallsyms
from npdump.kernel.facts.types import Types
from npdump.kernel.probe import embedded_types

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import U64
    from npdump.kernel.kernel import Kernel

__all__ = ["Own"]

MAX_NAME_NBYTES = 64


class Own:
    """A kernel's own symbols and types.

    Parameters
    ----------
    kernel : Kernel
    external : Types or None
        Of a vmlinux, for what the kernel does not carry itself.

    Attributes
    ----------
    memory : VirtualMemory
    """

    def __init__(self, kernel: Kernel, external: Types | None = None) -> None:
        self.memory = kernel.memory
        self._kernel, self._external = kernel, external

    @cached_property
    def _known(self) -> tuple[dict[str, int], Types]:
        symbols: dict[str, int] = {}
        types = self._external or Types.none()
        try:
            own = embedded_types(self._kernel)
            if own is not None:
                symbols, types = own[0], own[1]._replace(structs=types.structs | own[1].structs)
            elif kallsyms.is_there(self._kernel.facts):
                symbols = kallsyms.read(self._kernel.facts, self.memory.read, self.memory.word)
        except (FactError, AddressError):
            pass
        return symbols, types

    @property
    def types(self) -> Types:
        """The kernel's types, as far as they are known."""
        return self._known[1]

    def symbol(self, name: str) -> int:
        """Return the address of a symbol; raises FactError if it is not known."""
        vaddr = self._kernel.facts.get(f"SYMBOL({name})") or self._known[0].get(name)
        if vaddr is None:
            raise FactError(f"the kernel does not tell where {name} is")
        return vaddr

    @cached_property
    def _by_vaddr(self) -> tuple[U64, list[str]]:
        pairs = sorted((vaddr, name) for name, vaddr in self._known[0].items())
        return np.array([vaddr for vaddr, _ in pairs], np.uint64), [name for _, name in pairs]

    def symbols_in(self, start: int, stop: int) -> list[str]:
        """Return the names of the symbols in ``[start, stop)``; first of all the one that begins before and reaches in.

        A symbol reaches to the next one.
        """
        vaddrs, names = self._by_vaddr
        first, last = np.searchsorted(vaddrs, np.array([start, stop], np.uint64)).tolist()
        begins_before = first > 0 and (first == len(vaddrs) or int(vaddrs[first]) > start)
        return names[first - begins_before : last]

    def place(self, vaddr: int) -> str | None:
        """Return an address as a symbol and an offset, None if no symbol is known before it."""
        vaddrs, names = self._by_vaddr
        i = int(np.searchsorted(vaddrs, np.uint64(vaddr), side="right")) - 1
        return None if i < 0 else f"{names[i]}+{vaddr - int(vaddrs[i]):#x}"

    def has(self, struct: str, *members: str) -> bool:
        """Return whether the places of members are known."""
        known = self.types.structs.get(struct)
        return known is not None and all(member in known.members for member in members)

    def offset(self, struct: str, member: str) -> int:
        """Return the offset of a member in bytes; raises FactError if it is not known."""
        if not self.has(struct, member):
            raise FactError(f"the kernel does not tell where {member} is in struct {struct}")
        return self.types.structs[struct].members[member].offset

    def nbytes(self, struct: str) -> int:
        """Return the size of a struct; raises FactError if it is not known."""
        known = self.types.structs.get(struct)
        if known is None:
            raise FactError(f"the kernel does not tell how large struct {struct} is")
        return known.nbytes

    def read(self, vaddr: int, struct: str, *members: str) -> list[int]:
        """Return members of a struct as unsigned numbers, with one look at memory; raises FactError or AddressError."""
        places = [self.types.structs[struct].members[name] for name in members if self.offset(struct, name) >= 0]
        first = min(place.offset for place in places)
        raw = self.memory.read(vaddr + first, max(place.offset + place.nbytes for place in places) - first)
        order = "big" if self.memory.space.byte_order == ">" else "little"
        return [
            int.from_bytes(raw[place.offset - first :][: place.nbytes], order)  # type: ignore[arg-type]
            for place in places
        ]

    def text(self, vaddr: int, nbytes: int = MAX_NAME_NBYTES) -> str:
        """Return a text of at most some bytes that ends with a zero; raises AddressError."""
        page_size = self._kernel.page_size
        nbytes = min(nbytes, page_size - vaddr % page_size)
        raw = self.memory.read(vaddr, nbytes).partition(b"\0")[0]
        return raw.decode("ascii", "backslashreplace")

    def follow(self, head: int, most: int) -> Iterator[int]:
        """Yield the addresses of the entries of a circular list (struct list_head), without its head.

        Raises
        ------
        FactError
            If it does not come round within ``most`` entries.
        AddressError
        """
        entry = self.memory.read_word(head)
        for _ in range(most):
            if entry == head:
                return
            yield entry
            entry = self.memory.read_word(entry)
        raise FactError(f"the list at {head:#x} does not end")
