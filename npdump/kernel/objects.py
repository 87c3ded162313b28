# SPDX-License-Identifier: GPL-2.0-or-later
"""Things in the crashed kernel's memory, by name and type, for programs that look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.arrays import join
from npdump.errors import AddressError, FactError
from npdump.kernel.facts.graph import CType, Kind
from npdump.kernel.percpu import read_offsets
from npdump.observer import SILENT, Observer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import Runs
    from npdump.kernel.kernel import Kernel
    from npdump.kernel.memory import VirtualMemory
    from npdump.kernel.names import Names

__all__ = ["Crashed", "Object", "PhysicalRange"]

MAX_ELEMENTS = 1 << 24
"""Of a list or tree; more is damage."""

MAX_STRING_NBYTES = 4096

FIRST_STACK = (("__start_init_stack", "__end_init_stack"), ("__start_init_task", "__end_init_task"))
"""Symbols around the first task's stack."""


class PhysicalRange(NamedTuple):
    """Bytes ``[paddr, paddr + nbytes)`` of physical memory."""

    paddr: int
    nbytes: int


class Object:
    """Something of a type at a kernel address; its members are attributes, and pointers on the way are followed.

    Names that end in an underscore are no members: ``address_``, ``type_``, ``nbytes_``. ``int(object)`` is the value
    of a number or pointer, ``str(object)`` the text of a ``char`` array or pointer, ``bytes(object)`` the bytes.

    Raises
    ------
    FactError, AddressError
        If there is no such member, or what leads to it is NULL, unmapped or not in the dump.
    """

    __slots__ = ("_memory", "address_", "type_")

    def __init__(self, memory: VirtualMemory, address: int, ctype: CType) -> None:
        self._memory, self.address_, self.type_ = memory, address, ctype

    def __repr__(self) -> str:
        return f"<{self.type_} at {self.address_:#x}>"

    @property
    def nbytes_(self) -> int:
        """How many bytes it has, 0 if that is not known."""
        return self.type_.nbytes

    def target_(self) -> Object:
        """Return what a pointer points to; anything else as it is."""
        if self.type_.kind is not Kind.POINTER:
            return self
        address = self._memory.read_word(self.address_)
        if not address:
            raise AddressError(f"{self!r} is NULL")
        return Object(self._memory, address, self.type_.target)

    def __getattr__(self, name: str) -> Object:
        if name.startswith("__"):
            raise AttributeError(name)
        of = self.target_()
        field = of.type_.members.get(name) if of.type_.is_record else None
        if field is None:
            raise FactError(f"{of.type_} has no member {name}")
        return Object(self._memory, of.address_ + field.offset, field.type)

    def __getitem__(self, index: int) -> Object:
        if self.type_.kind not in (Kind.ARRAY, Kind.POINTER):
            raise FactError(f"{self!r} has no elements")
        at = self.target_().address_ if self.type_.kind is Kind.POINTER else self.address_
        return Object(self._memory, at + index * self.type_.target.nbytes, self.type_.target)

    def __int__(self) -> int:
        if self.type_.kind is Kind.POINTER:
            return self._memory.read_word(self.address_)
        if self.type_.kind not in (Kind.INT, Kind.ENUM) or self.nbytes_ not in (1, 2, 4, 8):
            raise FactError(f"{self!r} is no number")
        kind = f"{'i' if self.type_.is_signed else 'u'}{self.nbytes_}"
        return int(self._memory.read_array(self.address_, self._memory.dtype(kind), 1)[0])

    __index__ = __int__

    def __bool__(self) -> bool:
        return int(self) != 0

    def __bytes__(self) -> bytes:
        return self._memory.read(self.address_, self.nbytes_)

    def __str__(self) -> str:
        if not self.type_.target.is_char:
            return repr(self)
        at, nbytes = self.target_().address_, self.nbytes_ if self.type_.kind is Kind.ARRAY else MAX_STRING_NBYTES
        raw, lost = self._memory.read_lossy(at, nbytes)
        text = raw[: int(lost[0, 0]) if len(lost) else None].tobytes()
        return text.partition(b"\0")[0].decode("utf-8", "replace")


class Crashed:
    """The crashed kernel, for programs: symbols, objects, lists, trees, tasks and their memory.

    Parameters
    ----------
    names : Names
    observer : Observer
        Hears what a program has to say: ``kernel.observer.message(text)``.

    Attributes
    ----------
    names : Names
    observer : Observer
    memory : VirtualMemory
    facts : Facts
    page_size : int
        Bytes.
    """

    def __init__(self, names: Names, observer: Observer = SILENT) -> None:
        kernel: Kernel = names.kernel
        self.names, self.observer = names, observer
        self.memory, self.facts, self.page_size = kernel.memory, kernel.facts, kernel.page_size

    def symbol(self, name: str, module: str = "vmlinux") -> int:
        """Return the address of a symbol; raises FactError if there is none."""
        return self.names.need_symbol(name, module)

    def object(self, name: str, of: str | None = None, module: str = "vmlinux") -> Object:
        """Return a global variable.

        Parameters
        ----------
        name : str
        of : str, optional
            The struct that it is, where nothing else tells its type.
        module : str
        """
        ctype = self.names.record(of, module) if of is not None else self.names.variable(name, module)
        if ctype is None:
            raise FactError(f"{name}: nothing tells its type: name the struct that it is")
        return Object(self.memory, self.symbol(name, module), ctype)

    def at(self, address: int, of: str, module: str = "vmlinux") -> Object:
        """Return the struct ``of`` at an address."""
        return Object(self.memory, address, self.names.record(of, module))

    def walk_list(self, head: Object | int, of: str, member: str, module: str = "vmlinux") -> Iterator[Object]:
        """Yield the structs ``of`` on a list, by the member that links them; ``head`` is its ``list_head``."""
        record = self.names.record(of, module)
        if member not in record.members:
            raise FactError(f"{record} has no member {member}")
        start = head if isinstance(head, int) else head.address_
        seen: set[int] = set()
        at = self.memory.read_word(start)
        while at and at != start and at not in seen and len(seen) < MAX_ELEMENTS:
            seen.add(at)
            yield Object(self.memory, at - record.members[member].offset, record)
            at = self.memory.read_word(at)

    def walk_tree(self, root: Object, of: str, member: str, module: str = "vmlinux") -> Iterator[Object]:
        """Yield the structs ``of`` in a red-black tree (``rb_root``), in no order."""
        record, node = self.names.record(of, module), self.names.record("rb_node")
        offset = record.members[member].offset
        left, right = node.members["rb_left"].offset, node.members["rb_right"].offset
        seen: set[int] = set()
        todo = [self.memory.read_word(root.address_)]
        while todo and len(seen) < MAX_ELEMENTS:
            at = todo.pop()
            if at and at not in seen:
                seen.add(at)
                yield Object(self.memory, at - offset, record)
                todo += [self.memory.read_word(at + left), self.memory.read_word(at + right)]

    def tasks(self, threads: bool = True) -> Iterator[Object]:
        """Yield the ``task_struct`` of each process, and of all their threads; the idle task of CPU 0 comes first."""
        init = self.object("init_task")
        yield init
        for task in self.walk_list(init.tasks, "task_struct", "tasks"):
            if threads:
                yield from self.walk_list(task.signal.thread_head, "task_struct", "thread_node")
            else:
                yield task

    def per_cpu(self, address: int) -> list[int]:
        """Return where each CPU has its own of a per-CPU variable; raises FactError or AddressError."""
        offsets = read_offsets(self.memory, self.symbol("nr_cpu_ids"), self.symbol("__per_cpu_offset"))
        mask = (1 << 8 * self.memory.word.itemsize) - 1
        return [address + offset & mask for offset in offsets]

    def stack_nbytes(self) -> int:
        """Return how large kernel stacks are: all as the first task's (``INIT_TASK_DATA`` in Linux's vmlinux.lds.h)."""
        for first, last in FIRST_STACK:
            start, stop = self.names.symbol(first), self.names.symbol(last)
            if start is not None and stop is not None and start < stop:
                return stop - start
        raise FactError("nothing tells how large kernel stacks are")

    def user_ranges(self, mm: Object, start: int = 0, stop: int | None = None) -> list[PhysicalRange]:
        """Return where user addresses of a process are in memory, as far as its page tables map them.

        Parameters
        ----------
        mm : Object
            A ``struct mm_struct`` or a pointer to one.
        start, stop : int, optional
            User addresses; by default all.
        """
        paging = self.memory.space.paging
        if paging is None:
            raise FactError("this machine's user addresses can't be translated")
        # User addresses have the same tables below what the kernel has above.
        limit = 1 << (paging.levels[0].shift + paging.levels[0].bits - 1)
        stop = limit if stop is None else min(stop, limit)
        (root,) = self.memory.extents(int(mm.pgd), 1)
        if root.paddr is None:
            raise AddressError(f"{mm.pgd!r} isn't mapped")
        return [PhysicalRange(*found) for found in self.memory.user_extents(root.paddr, start, stop)]

    def user_pages(self, mm: Object, start: int = 0, stop: int | None = None) -> Runs:
        """Return the page frames of `user_ranges`; shape (n, 2), dtype int64."""
        found = self.user_ranges(mm, start, stop)
        runs = np.array([(paddr, paddr + nbytes) for paddr, nbytes in found], np.int64).reshape(-1, 2)
        runs = np.column_stack((runs[:, 0] // self.page_size, -(-runs[:, 1] // self.page_size)))
        return join(runs[np.argsort(runs[:, 0], kind="stable")])
