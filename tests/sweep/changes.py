# SPDX-License-Identifier: GPL-2.0-or-later
"""All changes of one value of a VMCOREINFO text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

STEPS = (1, 4, 8, 16)
HEXADECIMAL = ("SYMBOL(", "KERNELOFFSET")
N_FLAGS = 25
#: More than any structure, address space or array has room for.
EXTREMES = ((1 << 31) - 1, 1 << 40)
#: Page types of the kernels from 4.18 on, as C writes them: of _mapcount, and from 6.12 on of its top byte.
PAGE_TYPES = (*(-1 - (1 << bit) for bit in range(7, 13)), *(-1 << 24 | 0xF0 << 24 | n << 24 for n in range(9)))


class Change(NamedTuple):
    """One key of VMCOREINFO with another value; None takes the key out."""

    key: str
    value: str | None
    label: str

    def apply(self, text: str) -> str:
        """The text with the change."""
        line = "" if self.value is None else f"{self.key}={self.value}\n"
        new, n = re.subn(rf"^{re.escape(self.key)}=.*\n", lambda match: line, text, flags=re.MULTILINE)
        return new if n else f"{text}{line}"

    def __str__(self) -> str:
        return f"{self.key} {self.label}"


def parse(text: str) -> dict[str, str]:
    """Values by key, the first one where a key is there twice."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, sign, value = line.partition("=")
        if sign and key not in values:
            values[key] = value.strip()
    return values


def _number(key: str, value: str) -> int | None:
    try:
        return int(value, 16 if key.startswith(HEXADECIMAL) else 0)
    except ValueError:
        return None


def _written(key: str, like: str, number: int, mask: int) -> str:
    """A number as the kernel writes it for this key."""
    if key.startswith(HEXADECIMAL):
        return f"{number & mask:x}"
    return f"{number & mask:#x}" if like.startswith("0x") else str(number)


def _neighbours(values: Mapping[str, str], key: str) -> Iterator[tuple[str, int]]:
    """Values of the keys before and after, of the same kind, as in SIZE(...)."""
    kind = key.partition("(")[0]
    alike = [name for name in values if name.partition("(")[0] == kind]
    at = alike.index(key)
    for name in (*alike[max(at - 1, 0) : at], *alike[at + 1 : at + 2]):
        number = _number(name, values[name])
        if number is not None:
            yield f"= {name}", number


def _special(key: str) -> Iterator[tuple[str, int]]:
    """Other values that mean something for this key."""
    if key == "NUMBER(PG_head_mask)":
        yield from ((f"= 1 << {bit}", 1 << bit) for bit in range(N_FLAGS))
    elif key.startswith("NUMBER(PG_"):
        yield from ((f"= {bit}", bit) for bit in range(N_FLAGS))
    elif key.endswith("MAPCOUNT_VALUE)"):
        yield from ((f"= {value}", value) for value in PAGE_TYPES)
    elif key == "PAGESIZE":
        yield from ((f"= {1 << shift}", 1 << shift) for shift in range(9, 22))


def _numbers(values: Mapping[str, str], key: str, number: int) -> Iterator[tuple[str, int]]:
    for step in STEPS:
        yield f"+ {step}", number + step
        yield f"- {step}", number - step
    yield from (("= 0", 0), ("= -1", -1), ("* 2", number * 2), ("/ 2", number // 2))
    yield from ((f"= {extreme}", extreme) for extreme in EXTREMES)
    yield from _neighbours(values, key)
    yield from _special(key)


def changes_of(text: str, others: Mapping[str, str]) -> list[Change]:
    """Every change of every key, and every key that another kernel has and this one lacks.

    `others` are the texts of other kernels, by name. Changes that give the same value come once.
    """
    values = parse(text)
    mask = (1 << 64) - 1
    if all(len(value) <= 8 for key, value in values.items() if key.startswith("SYMBOL(")):
        mask = (1 << 32) - 1
    theirs = {name: parse(other) for name, other in others.items()}
    found: list[Change] = []
    for key, value in values.items():
        found.append(Change(key, None, "removed"))
        seen = {value}
        number = _number(key, value)
        new: list[tuple[str, str]] = []
        if number is not None:
            new += [(label, _written(key, value, n, mask)) for label, n in _numbers(values, key, number)]
        new += [(f"as in {name}", other[key]) for name, other in theirs.items() if key in other]
        found += _fresh(key, new, seen)
    for key in dict.fromkeys(key for other in theirs.values() for key in other if key not in values):
        found += _fresh(key, [(f"as in {name}", other[key]) for name, other in theirs.items() if key in other], set())
    return found


def _fresh(key: str, new: Iterable[tuple[str, str]], seen: set[str]) -> Iterator[Change]:
    for label, value in new:
        if value not in seen:
            seen.add(value)
            yield Change(key, value, label)
