# SPDX-License-Identifier: GPL-2.0-or-later
"""What rules stand on: the crashed kernel, its struct pages and slabs, and a record of what they miss."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from npdump.arrays import join
from npdump.errors import AddressError, CodecError, FactError, LostPage, SourceError
from npdump.kernel.objects import Crashed, PhysicalRange
from npdump.kernel.own import Own
from npdump.kernel.vmalloc import pfns_of
from npdump.pages.pcp import PerCpuLists
from npdump.pages.table import PageTable
from npdump.redact._slabs import Slabs
from npdump.redact._survey import Survey, survey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import I64, U64, Runs
    from npdump.kernel.facts.graph import CType
    from npdump.sources import Source

__all__ = ["LEVEL", "MISSES", "Ground"]

LEVEL = 31
"""The dump level that goes with it: user memory, the page cache and free pages are left out as a whole."""

MISSES = (FactError, AddressError, SourceError, CodecError, LostPage)
"""Why something of the kernel can't be had."""


@dataclass
class Ground:
    """The crashed kernel, for rules.

    Attributes
    ----------
    kernel : Crashed
    source : Source
    """

    kernel: Crashed
    source: Source
    _misses: dict[str, int] = field(default_factory=dict)

    @cached_property
    def table(self) -> PageTable:
        """The struct pages."""
        names = self.kernel.names
        own = self.own
        return PageTable(self.source, lambda: (names.kernel, LEVEL), self.kernel.observer, find_types=lambda: own.types)

    @cached_property
    def own(self) -> Own:
        """The kernel's own symbols and types, as the table of pages takes them."""
        return Own(self.kernel.names.kernel)

    @cached_property
    def slabs(self) -> Slabs:
        """The kernel's slabs."""
        return Slabs(self.kernel, self.table, self.source)

    @cached_property
    def algorithms(self) -> U64:
        """Addresses of the kernel's crypto algorithms."""
        head = self.kernel.symbol("crypto_alg_list")
        found = [one.address_ for one in self.kernel.walk_list(head, "crypto_alg", "cra_list")]
        return np.array(found, np.uint64)

    @cached_property
    def survey(self) -> Survey:
        """What is in the slabs."""
        algorithms = np.empty(0, np.uint64)
        with suppress(*MISSES):  # whose rule says that
            algorithms = self.algorithms
        return survey(self.kernel, self.slabs, algorithms)

    @cached_property
    def per_cpu_pages(self) -> Runs:
        """Free pages that CPUs keep to themselves, as page frames."""
        return PerCpuLists(self.kernel.names.kernel, self.table.memmap, self.table.page, self.own).runs()

    @contextmanager
    def missing(self, what: str) -> Iterator[None]:
        """Go on where one object of many can't be read, and remember that.

        Parameters
        ----------
        what : str
            Of what that is one, in the plural.
        """
        try:
            yield
        except MISSES as error:
            text = f"{what} that can't be read ({error})"
            self.miss(text, alike=what)

    def miss(self, text: str, n: int = 1, alike: str | None = None) -> None:
        """Remember that a rule misses something; texts that are alike are one, the first of them."""
        key = next((known for known in self._misses if alike is not None and known.startswith(alike)), text)
        self._misses[key] = self._misses.get(key, 0) + n

    def missed(self) -> str | None:
        """Return what was missed since the last call, in words."""
        misses, self._misses = self._misses, {}
        return "; ".join(f"{n} {text}" if n else text for text, n in misses.items()) or None

    def optional(self, name: str, module: str = "vmlinux") -> int | None:
        """Return the address of a symbol that a kernel need not have: None if that is so.

        Raises
        ------
        FactError
            If the kernel has no table that would tell.
        """
        found = self.kernel.names.symbol(name, module)
        if found is None:
            self.kernel.symbol("init_task")  # without a table of variables, that is missing too
        return found

    def columns(self, paddrs: I64, struct: CType, *members: str) -> dict[str, U64]:
        """Return members of many objects of one type; those that can't be read are 0, and remembered.

        Parameters
        ----------
        paddrs : ndarray of shape (n,), dtype int64
        struct : CType
        members : str
            Numbers or pointers.

        Returns
        -------
        dict of str to ndarray of shape (n,), dtype uint64
        """
        memory = self.kernel.memory
        fields = {name: struct.members[name] for name in members}
        start = min(at.offset for at in fields.values())
        nbytes = max(at.offset + at.type.nbytes for at in fields.values()) - start
        raw = np.zeros((len(paddrs), nbytes), np.uint8)
        for i, paddr in enumerate(paddrs.tolist()):
            with self.missing(f"objects of {struct}"):
                raw[i] = memory.view_physical(paddr + start, nbytes)
        columns = {}
        for name, at in fields.items():
            first = at.offset - start
            column = np.ascontiguousarray(raw[:, first : first + at.type.nbytes])
            columns[name] = column.view(memory.dtype(f"u{at.type.nbytes}"))[:, 0].astype(np.uint64)
        return columns

    def pages(self, vaddrs: U64) -> I64:
        """Return the page frames of struct pages by their addresses, -1 for what is none."""
        return pfns_of(self.table.memmap, self.table.page.nbytes, vaddrs)

    def struct_pages(self, pfns: I64) -> U64:
        """Return the addresses of the struct pages of some page frames; those that have none are left out."""
        found = [self.table.memmap.struct_vaddr(pfn, self.table.page.nbytes) for pfn in pfns.tolist()]
        return np.array([vaddr for vaddr in found if vaddr is not None], np.uint64)

    def whole_blocks(self, pfns: I64) -> Runs:
        """Return physical addresses of all pages that go together with some page frames."""
        page_size, found = self.source.page_size, [(0, 0)]
        for pfn in np.unique(pfns[pfns >= 0]).tolist():
            if pfn * page_size < found[-1][1]:
                continue  # in the block before
            first, order, _ = self.table.block(pfn)
            found.append((first * page_size, (first + (1 << order)) * page_size))
        return join(np.array(found, np.int64))

    def object_at(self, vaddr: int, skip_nbytes: int = 0) -> PhysicalRange:
        """Return the whole slab object that an address is in, without its first bytes.

        Raises
        ------
        AddressError
            If the address is in none.
        """
        found = self.slabs.find(vaddr)
        if found is None:
            raise AddressError(f"{vaddr:#x} is in no slab and no block of pages")
        return PhysicalRange(found[0] + skip_nbytes, max(found[1] - skip_nbytes, 0))
