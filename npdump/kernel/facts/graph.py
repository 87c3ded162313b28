# SPDX-License-Identifier: GPL-2.0-or-later
"""All of a kernel's C types as a graph whose nodes are made when they are asked for.

`npdump.kernel.facts.types` has the few types that every dump needs, read at once; this has any type, by name, for who
follows members, pointers and lists. BTF and DWARF each have a module that makes the nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from npdump.errors import FactError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["VOID", "CType", "Field", "Kind", "TypeGraph"]

MAX_NESTING = 32
"""Bound on anonymous structs in structs, and on arrays of arrays; more is damage."""


class Kind(Enum):
    """What a type is; typedefs and qualifiers are no types of their own."""

    VOID = "void"
    INT = "int"
    POINTER = "pointer"
    ARRAY = "array"
    STRUCT = "struct"
    UNION = "union"
    ENUM = "enum"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Field:
    """A member: where it is in its struct, in bytes, and its type; ``is_bitfield`` if it is only some bits of that."""

    offset: int
    type: CType
    is_bitfield: bool = False


@dataclass(frozen=True, eq=False)
class CType:
    """A C type.

    Attributes
    ----------
    kind : Kind
    name : str
        Empty if it has none; of a struct, union or enum its tag.
    nbytes : int
        0 if that is not known.
    n_elements : int
        Of an array; 0 if that is not known.
    is_signed : bool
        Of a number.
    """

    kind: Kind
    name: str = ""
    nbytes: int = 0
    n_elements: int = 0
    is_signed: bool = False
    find_target: Callable[[], CType] | None = None
    find_members: Callable[[], list[tuple[str, Field]]] | None = None

    def __str__(self) -> str:
        if self.kind is Kind.POINTER:
            return f"{self.target} *"
        if self.kind is Kind.ARRAY:
            return f"{self.target} [{self.n_elements or ''}]"
        prefix = f"{self.kind.value} " if self.kind in (Kind.STRUCT, Kind.UNION, Kind.ENUM) else ""
        return f"{prefix}{self.name or '(nameless)'}" if self.kind is not Kind.VOID else "void"

    @cached_property
    def target(self) -> CType:
        """What a pointer points to, or an array has; void for all others."""
        return self.find_target() if self.find_target is not None else VOID

    @cached_property
    def members(self) -> dict[str, Field]:
        """The members of a struct or union by name; those of nameless structs and unions in it are its own."""
        found: dict[str, Field] = {}
        self._collect(0, found, 0)
        return found

    def _collect(self, base: int, found: dict[str, Field], depth: int) -> None:
        if depth > MAX_NESTING:
            raise FactError("the kernel's types are damaged: structs are in each other without end")
        for name, field in self.find_members() if self.find_members is not None else ():
            if name:
                found.setdefault(name, Field(base + field.offset, field.type, field.is_bitfield))
            elif field.type.is_record:
                field.type._collect(base + field.offset, found, depth + 1)

    @property
    def is_record(self) -> bool:
        """Whether it is a struct or union."""
        return self.kind in (Kind.STRUCT, Kind.UNION)

    @property
    def is_char(self) -> bool:
        """Whether it is C's ``char``."""
        return self.kind is Kind.INT and self.name == "char"


VOID = CType(Kind.VOID)


class TypeGraph(Protocol):
    """Types by name, as one source tells them."""

    @property
    def origin(self) -> str:
        """What the types are from, in words."""

    def record(self, name: str) -> CType | None:
        """Return the struct, union or typedef of one that is called so, None if there is none."""

    def variable(self, name: str, vaddr: int | None) -> CType | None:
        """Return the type of a global variable, None if it is not known.

        Parameters
        ----------
        name : str
        vaddr : int or None
            Its address as linked: of two of the same name the one that is there is taken.
        """
