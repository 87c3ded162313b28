# SPDX-License-Identifier: GPL-2.0-or-later
"""Erasing: which bytes of physical memory a configuration, or a program, wants a dump not to have.

A configuration (`npdump.erase.language`) is carried out in the crashed kernel's memory (`npdump.erase.resolve`); what
it finds becomes ranges of physical memory (`make_plan`), which are overwritten on their way out, whatever reads them
(`npdump.sources.Source.erasing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from npdump.erase.language import KERNEL, parse
from npdump.erase.resolve import Found, Resolver
from npdump.errors import ConfigError
from npdump.sources._erased import ErasePlan, byte_runs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from npdump.erase.language import Section
    from npdump.erase.resolve import Problem
    from npdump.kernel.names import Names

__all__ = ["Outcome", "carry_out", "make_plan", "read_config"]

MAX_CONFIG_NBYTES = 1 << 22


class Outcome(NamedTuple):
    """What a configuration comes to in one dump.

    Attributes
    ----------
    path : str
        Of the configuration.
    found : list of Found
        In the order of its commands.
    problems : dict of Problem to int
        Why commands find nothing, and how often that came up.
    absent : tuple of str
        Modules that have a section and are not loaded: what it names isn't there.
    """

    path: str
    found: list[Found]
    problems: dict[Problem, int]
    absent: tuple[str, ...] = ()

    def problem_texts(self) -> list[str]:
        """Return the problems in words, with file and line."""
        return [
            f"{self.path}:{problem.line}: {problem.why}" + (f" ({n} times)" if n > 1 else "")
            for problem, n in sorted(self.problems.items())
        ]


def read_config(path: str) -> list[Section]:
    """Read a configuration file.

    Raises
    ------
    ConfigError
        If it can't be read, or a line of it is wrong.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_CONFIG_NBYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}", path=path) from error
    if len(raw) > MAX_CONFIG_NBYTES or b"\0" in raw:
        raise ConfigError(f"{path}: isn't a configuration for erasing: that is a short text", path=path)
    return parse(raw.decode("utf-8", "replace"), path)


def carry_out(path: str, sections: Iterable[Section], names: Names) -> Outcome:
    """Find what the commands of a configuration erase.

    Parameters
    ----------
    path : str
        Of the configuration, for messages.
    sections : iterable of Section
    names : Names
        Of the crashed kernel.
    """
    resolver = Resolver(names.kernel.memory, names)
    sections = list(sections)
    asked = {section.module for section in sections} - {KERNEL}
    absent = asked - set(names.modules) if asked else set()
    found = [one for section in sections if section.module not in absent for one in resolver.resolve(section)]
    return Outcome(path, found, resolver.problems, tuple(sorted(absent)))


def make_plan(found: Iterable[Found]) -> ErasePlan:
    """Return the bytes of physical memory of all that is to be erased."""
    filled: list[tuple[int, int]] = []
    zeroed: list[tuple[int, int]] = []
    lines = []
    for one in found:
        (zeroed if one.zeroes else filled).extend(one.ranges)
        lines.append(one.text + "\n")
    return ErasePlan(byte_runs(filled), byte_runs(zeroed), "".join(lines).encode())
