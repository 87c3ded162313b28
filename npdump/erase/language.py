# SPDX-License-Identifier: GPL-2.0-or-later
"""The language of makedumpfile.conf(5): from text to commands, without looking at any dump.

One thing is added to it: a type in parentheses before a symbol, as in ``(task_struct)init_task.comm``, says what the
symbol is where no debug information does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from npdump.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KERNEL", "Erase", "Expression", "Loop", "Section", "parse"]

KERNEL = "vmlinux"
MAX_DEPTH = 16
"""Loops in loops."""

_MULTIPLIERS = {"": 1, "k": 1 << 10, "m": 1 << 20}
_SIZE = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9]+)([kKmM]?)")
_EXPRESSION = re.compile(r"(?:\(([A-Za-z_]\w*)\))?([A-Za-z_]\w*(?:\.\w+)*)")
_SECTION = re.compile(r"\[\s*([\w-]+)\s*\]")
_WITHIN = re.compile(r"([A-Za-z_]\w*):([A-Za-z_]\w*)")


@dataclass(frozen=True)
class Expression:
    """``symbol.member.member``; ``cast`` names the symbol's type."""

    text: str
    symbol: str
    members: tuple[str, ...]
    cast: str | None = None


@dataclass(frozen=True)
class Erase:
    """``erase what [size N | size expression | nullify]``."""

    line: int
    what: Expression
    size: int | Expression | None = None
    nullify: bool = False


@dataclass(frozen=True)
class Loop:
    """``for name in what [via member | within struct:member]``, and the commands for each element."""

    line: int
    name: str
    what: Expression
    via: str | None = None
    within: tuple[str, str] | None = None
    body: list[Erase | Loop] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """The commands about the kernel, or about one module."""

    module: str
    commands: list[Erase | Loop] = field(default_factory=list)


def parse(text: str, path: str) -> list[Section]:
    r"""Read a configuration.

    Parameters
    ----------
    text : str
    path : str
        Named in errors.

    Raises
    ------
    ConfigError
        With the line that is wrong.

    Examples
    --------
    >>> (section,) = parse("for t in init_task.tasks within task_struct:tasks\n  erase t.comm\nendfor", "a.conf")
    >>> section.commands[0].body[0].what.members
    ('comm',)
    >>> parse("erase", "a.conf")
    Traceback (most recent call last):
    npdump.errors.ConfigError: a.conf:1: erase: of what? A symbol is missing
    """
    return _Parser(path).sections(text)


class _Parser:
    def __init__(self, path: str) -> None:
        self._path = path
        self._line = 0

    def _fail(self, why: str, line: int | None = None) -> NoReturn:
        raise ConfigError(f"{self._path}:{line or self._line}: {why}")

    def sections(self, text: str) -> list[Section]:
        sections = [Section(KERNEL)]
        open_loops: list[Loop] = []
        for self._line, words in _lines(text):
            match = _SECTION.fullmatch(" ".join(words))
            if match:
                if open_loops:
                    self._fail("a section begins before endfor", open_loops[-1].line)
                # A file's name may have hyphens where the module's has underscores.
                sections.append(Section(match[1].replace("-", "_")))
                continue
            body = open_loops[-1].body if open_loops else sections[-1].commands
            if words[0] == "erase":
                body.append(self._erase(words))
            elif words[0] == "for":
                if len(open_loops) == MAX_DEPTH:
                    self._fail(f"more than {MAX_DEPTH} loops in each other")
                body.append(self._loop(words))
                open_loops.append(body[-1])  # type: ignore[arg-type]
            elif words == ["endfor"]:
                if not open_loops:
                    self._fail("endfor without for")
                if not open_loops.pop().body:
                    self._fail("the loop erases nothing")
            else:
                self._fail(f"{words[0][:60]}: isn't erase, for, endfor or a [section]")
        if open_loops:
            self._fail("for without endfor", open_loops[-1].line)
        return [section for section in sections if section.commands]

    def _erase(self, words: list[str]) -> Erase:
        if len(words) < 2:
            self._fail("erase: of what? A symbol is missing")
        what, rest = self._expression(words[1]), words[2:]
        if not rest:
            return Erase(self._line, what)
        if rest == ["nullify"]:
            return Erase(self._line, what, nullify=True)
        if rest[0] != "size" or len(rest) != 2:
            self._fail(f"{' '.join(rest)[:60]}: after the symbol comes size and one value, nullify, or nothing")
        match = _SIZE.fullmatch(rest[1])
        if match is None:
            return Erase(self._line, what, self._expression(rest[1]))
        digits = match[1].lower()
        nbytes = int(digits, 16 if digits.startswith("0x") else 10) * _MULTIPLIERS[match[2].lower()]
        if not nbytes:
            self._fail("size 0 erases nothing")
        return Erase(self._line, what, nbytes)

    def _loop(self, words: list[str]) -> Loop:
        if len(words) < 4 or words[2] != "in":
            self._fail("a loop is: for NAME in WHAT, with via MEMBER or within STRUCT:MEMBER for a list")
        if not re.fullmatch(r"[A-Za-z_]\w*", words[1]):
            self._fail(f"{words[1][:60]}: can't be a name")
        name, what, rest = words[1], self._expression(words[3]), words[4:]
        if not rest:
            return Loop(self._line, name, what)
        if rest[0] == "via" and len(rest) == 2:
            return Loop(self._line, name, what, via=rest[1])
        match = _WITHIN.fullmatch("".join(rest[1:])) if rest[0] == "within" else None
        if match is None:
            self._fail(f"{' '.join(rest)[:60]}: isn't via MEMBER or within STRUCT:MEMBER")
        return Loop(self._line, name, what, within=(match[1], match[2]))

    def _expression(self, text: str) -> Expression:
        match = _EXPRESSION.fullmatch(text)
        if match is None:
            self._fail(f"{text[:60]}: isn't a symbol with members, such as init_uts_ns.name.nodename")
        symbol, *members = match[2].split(".")
        return Expression(text, symbol, tuple(members), match[1])


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the words of each line that has any, with its number; what comes after ``#`` is a comment."""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            yield number, words
