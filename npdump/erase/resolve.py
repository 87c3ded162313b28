# SPDX-License-Identifier: GPL-2.0-or-later
"""From commands to objects in the kernel's memory: follows symbols, members, pointers, arrays and lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from npdump.erase.language import Erase, Loop
from npdump.errors import AddressError, CodecError, FactError, SourceError
from npdump.kernel.facts.graph import CType, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from npdump.erase.language import Expression, Section
    from npdump.kernel.memory import VirtualMemory
    from npdump.kernel.names import Names

__all__ = ["MAX_STRING_NBYTES", "Found", "Problem", "Resolver"]

MAX_STRING_NBYTES = 1024
"""Of a ``char *`` whose size isn't given (makedumpfile.conf(5))."""

MAX_ELEMENTS = 1 << 24
"""Of a list."""


class Found(NamedTuple):
    """Bytes to be erased.

    Attributes
    ----------
    vaddr, nbytes : int
    ranges : tuple of (int, int)
        Physical address and bytes of each piece that is mapped.
    zeroes : bool
        Whether they become 0.
    line : int
        Of the command that asked for it.
    text : str
        How the dump will call it.
    """

    vaddr: int
    nbytes: int
    ranges: tuple[tuple[int, int], ...]
    zeroes: bool
    line: int
    text: str


class Problem(NamedTuple):
    """Why a command, or a part of it, finds nothing to erase."""

    line: int
    why: str


class Place(NamedTuple):
    """Something of a type at an address."""

    vaddr: int
    type: CType


class _Null(Exception):
    """A pointer on the way is NULL: there is nothing to erase."""


@dataclass
class Resolver:
    """Carries out commands.

    Parameters
    ----------
    memory : VirtualMemory
    names : Names

    Attributes
    ----------
    problems : dict of Problem to int
        How often each came up.
    """

    memory: VirtualMemory
    names: Names

    def __post_init__(self) -> None:
        self.problems: dict[Problem, int] = {}

    def resolve(self, section: Section) -> Iterator[Found]:
        """Yield what a section's commands erase, in their order."""
        self._module = section.module
        yield from self._run(section.commands, {})

    def _run(self, commands: Sequence[Erase | Loop], variables: Mapping[str, Place]) -> Iterator[Found]:
        for command in commands:
            try:
                if isinstance(command, Loop):
                    for place in self._elements(command, variables):
                        yield from self._run(command.body, {**variables, command.name: place})
                else:
                    found = self._erase(command, variables)
                    if found is not None:
                        yield found
            except _Null:
                continue
            except (FactError, AddressError, SourceError, CodecError) as error:
                self._note(command.line, str(error))

    def _note(self, line: int, why: str) -> None:
        problem = Problem(line, why)
        self.problems[problem] = self.problems.get(problem, 0) + 1

    def _place(self, expression: Expression, variables: Mapping[str, Place]) -> Place:
        place = variables.get(expression.symbol)
        if place is None:
            place = self._symbol(expression)
        for member in expression.members:
            place = self._member(place, member, expression)
        return place

    def _symbol(self, expression: Expression) -> Place:
        name = expression.symbol
        vaddr = self.names.need_symbol(name, self._module)
        if self.names.is_given_back(vaddr):
            raise FactError(f"{name}: its memory was given back after the start, and holds something else")
        if expression.cast is not None:
            return Place(vaddr, self.names.record(expression.cast, self._module))
        ctype = self.names.variable(name, self._module)
        return Place(vaddr, ctype if ctype is not None else CType(Kind.OTHER))

    def _member(self, place: Place, member: str, expression: Expression) -> Place:
        vaddr, ctype = self._followed(place)
        if not ctype.is_record:
            if ctype.kind is Kind.OTHER and not ctype.name:
                raise FactError(
                    f"{expression.symbol}: nothing tells its type: give -x VMLINUX, or write (TYPE){expression.symbol}"
                )
            raise FactError(f"{expression.text}: {member} would be a member of {ctype}, which has none")
        field = ctype.members.get(member)
        if field is None:
            raise FactError(f"{expression.text}: {ctype} has no member {member}")
        return Place(vaddr + field.offset, field.type)

    def _followed(self, place: Place) -> Place:
        """Return what a pointer points to; anything else as it is."""
        if place.type.kind is not Kind.POINTER:
            return place
        vaddr = self.memory.read_word(place.vaddr)
        if not vaddr:
            raise _Null
        return Place(vaddr, place.type.target)

    def _erase(self, command: Erase, variables: Mapping[str, Place]) -> Found | None:
        what = command.what
        place = self._place(what, variables)
        if command.nullify:
            if place.type.kind is not Kind.POINTER:
                raise FactError(f"{what.text}: nullify is for pointers, and {_known(place.type)}")
            return self._found(command, place.vaddr, place.type.nbytes)
        if command.size is not None:
            size = command.size
            nbytes = size if isinstance(size, int) else self._number(size, variables)
            vaddr = self._followed(place).vaddr
        else:
            vaddr, nbytes = self._whole(what, place)
        if nbytes > self.memory.data_nbytes:
            raise FactError(f"{what.text}: would have {nbytes} bytes, more than the dump")
        return self._found(command, vaddr, nbytes) if nbytes else None

    def _found(self, command: Erase, vaddr: int, nbytes: int) -> Found:
        """Say where an object is in physical memory, all of it, wherever its pages are."""
        extents = self.memory.extents(vaddr, nbytes)
        ranges = tuple((extent.paddr, extent.nbytes) for extent in extents if extent.paddr is not None)
        if not ranges:
            raise FactError(f"{command.what.text}: {vaddr:#x} isn't mapped")
        text = f"erase {command.what.text} " + ("nullify" if command.nullify else f"size {nbytes}")
        return Found(vaddr, nbytes, ranges, command.nullify, command.line, text)

    def _whole(self, what: Expression, place: Place) -> tuple[int, int]:
        """Return address and bytes of an object by its type."""
        vaddr, ctype = self._followed(place)
        if place.type.kind is Kind.POINTER and ctype.is_char:
            raw, lost = self.memory.read_lossy(vaddr, MAX_STRING_NBYTES)
            text = raw[: int(lost[0, 0]) if len(lost) else None].tobytes()
            return vaddr, len(text.partition(b"\0")[0])
        if not ctype.nbytes:
            hint = "give size or nullify" if ctype.kind is Kind.VOID else "give size"
            raise FactError(f"{what.text}: its size is not known ({_known(place.type)}): {hint}")
        return vaddr, ctype.nbytes

    def _number(self, expression: Expression, variables: Mapping[str, Place]) -> int:
        place = self._place(expression, variables)
        if place.type.kind not in (Kind.INT, Kind.ENUM) or not 0 < place.type.nbytes <= 8:
            raise FactError(f"{expression.text}: isn't a number but {place.type}")
        kind = f"{'i' if place.type.is_signed else 'u'}{place.type.nbytes}"
        value = int(self.memory.read_array(place.vaddr, self.memory.dtype(kind), 1)[0])
        if value < 0:
            raise FactError(f"{expression.text}: the size would be {value}")
        return value

    def _elements(self, loop: Loop, variables: Mapping[str, Place]) -> Iterator[Place]:
        if loop.within is not None:
            return self._list(loop, *loop.within, variables)
        place = self._place(loop.what, variables)
        if loop.via is not None:
            return self._chain(loop, self._followed(place))
        if place.type.kind is not Kind.ARRAY:
            raise FactError(f"{loop.what.text}: {_known(place.type)}, not an array: a list takes via or within")
        if not place.type.n_elements:
            raise FactError(f"{loop.what.text}: nothing tells how many elements it has")
        element = place.type.target
        return (Place(place.vaddr + i * element.nbytes, element) for i in range(place.type.n_elements))

    def _chain(self, loop: Loop, first: Place) -> Iterator[Place]:
        """Yield structs that each point to the next."""
        assert loop.via is not None
        if not first.type.is_record or loop.via not in first.type.members:
            raise FactError(f"{loop.what.text}: is {first.type}, which has no member {loop.via}")
        offset = first.type.members[loop.via].offset
        yield first
        for vaddr in self._walk(loop, self.memory.read_word(first.vaddr + offset), offset, first.vaddr):
            yield Place(vaddr, first.type)

    def _list(self, loop: Loop, struct: str, member: str, variables: Mapping[str, Place]) -> Iterator[Place]:
        """Yield the structs on a list, whose head is none of them."""
        record = self.names.record(struct, self._module)
        field = record.members.get(member)
        if field is None:
            raise FactError(f"{record} has no member {member}")
        what = loop.what
        # list_head has next first: a head and its member next have one address.
        is_next = bool(what.members) and what.members[-1] == "next"
        members = what.members[:-1] if is_next else what.members
        head = self._place(type(what)(what.text, what.symbol, members, what.cast), variables).vaddr
        for vaddr in self._walk(loop, self.memory.read_word(head), 0, head):
            yield Place(vaddr - field.offset, record)

    def _walk(self, loop: Loop, vaddr: int, offset: int, end: int) -> Iterator[int]:
        """Yield addresses, each told by the pointer ``offset`` bytes after the one before, up to NULL or ``end``."""
        seen: set[int] = set()
        while vaddr and vaddr != end:
            if vaddr in seen or len(seen) >= MAX_ELEMENTS:
                self._note(loop.line, f"{loop.what.text}: the list does not come to an end: it is damaged")
                return
            seen.add(vaddr)
            yield vaddr
            try:
                vaddr = self.memory.read_word(vaddr + offset)
            except (AddressError, SourceError, CodecError) as error:
                self._note(loop.line, f"{loop.what.text}: the list is cut off after {len(seen)} elements: {error}")
                return


def _known(ctype: CType) -> str:
    """Say what something is."""
    return "nothing tells its type" if ctype.kind is Kind.OTHER and not ctype.name else f"it is {ctype}"
