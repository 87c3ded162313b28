# SPDX-License-Identifier: GPL-2.0-or-later
"""Choosing between libraries that do the same job, whichever are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from npdump.errors import MissingDependency

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Engine", "choose", "describe"]


class Engine(NamedTuple):
    """A library that a codec can use.

    ``load`` imports it and returns what the codec makes its encoder of; it raises ImportError or OSError if the
    library isn't there. ``version`` takes that and returns what `describe` shows. ``hint`` says how to get it.
    """

    load: Callable[[], Any]
    version: Callable[[Any], str]
    hint: str


def choose(what: str, engines: Mapping[str, Engine], name: str | None = None) -> tuple[str, Any]:
    """Load the engine ``name``, or the first that is installed.

    Returns
    -------
    name : str
    loaded : object
        What its ``load`` returned.

    Raises
    ------
    MissingDependency
    """
    wanted = engines if name is None else {name: engines[name]}
    for engine_name, engine in wanted.items():
        try:
            return engine_name, engine.load()
        except (ImportError, OSError):
            continue
    hints = " or ".join(engine.hint for engine in wanted.values())
    raise MissingDependency(f"{what} needs {' or '.join(wanted)}, which isn't installed: {hints}")


def describe(engines: Mapping[str, Engine]) -> list[str]:
    """Return a line for each engine: its name and version, or how to get it."""
    lines = []
    for name, engine in engines.items():
        try:
            lines.append(f"{name} {engine.version(engine.load())}".rstrip())
        except (ImportError, OSError):
            lines.append(f"{name} (not installed: {engine.hint})")
    return lines
