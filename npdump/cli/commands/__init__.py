# SPDX-License-Identifier: GPL-2.0-or-later
"""What npdump does beside filtering a dump: one module per command, named as in ``COMMANDS``.

To add a command, add its name there and a module with a function ``run``: nothing else needs an edit.
"""

from typing import TYPE_CHECKING, NamedTuple

from npdump.cli.options import FILTER, MAKE_DUMPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["COMMANDS", "FILTER", "MAKE_DUMPS", "SUBCOMMANDS", "Command", "get"]


class Command(NamedTuple):
    """Something npdump does.

    Attributes
    ----------
    operands : tuple of str
        The fields of `Options` that the operands go to, in order.
    n_needed : int
        How many of them may not be empty.
    several : str or None
        The one that takes all operands that the others leave.
    has_json : bool
    """

    operands: tuple[str, ...]
    n_needed: int
    several: str | None = None
    has_json: bool = True


COMMANDS = {
    FILTER: Command(("vmcores", "dumpfiles"), 2, "vmcores"),
    "redact": Command(("vmcores", "dumpfiles"), 2, "vmcores"),
    "dmesg": Command(("vmcores", "dumpfiles"), 1, "vmcores"),
    "vtop": Command(("vmcores",), 1, "vmcores"),
    "mem_usage": Command(("vmcores",), 1, "vmcores"),
    "check_config": Command(("vmcores",), 1, "vmcores"),
    "info": Command(("vmcores",), 1, "vmcores"),
    "explain": Command(("vmcores", "pages"), 2, "pages"),
    "rearrange": Command(("dumpfiles",), 1, has_json=False),
    "make_vmcoreinfo": Command((), 0, has_json=False),
    "completion": Command(("shells",), 1, has_json=False),
    "stats": Command(("vmcores",), 1, "vmcores"),
    "map": Command(("vmcores", "dumpfiles"), 2, "vmcores", has_json=False),
    "compare": Command(("vmcores",), 1, "vmcores"),
    "check": Command(("vmcores",), 1, "vmcores"),
    "estimate": Command(("vmcores",), 1, "vmcores"),
    "skeleton": Command(("vmcores",), 1, "vmcores"),
    "report": Command(("vmcores", "dumpfiles"), 2, "vmcores", has_json=False),
    "fleet": Command(("vmcores",), 1, "vmcores"),
    "collector": Command(("tasks", "folders"), 1, has_json=False),
}
"""By the name of the module that does it."""

SUBCOMMANDS = (
    "info",
    "explain",
    "stats",
    "estimate",
    "map",
    "report",
    "compare",
    "skeleton",
    "check",
    "redact",
    "fleet",
    "completion",
    "collector",
)
"""Commands that makedumpfile does not have: the first argument names them. A vmcore of that name is ``./info``."""


def get(name: str) -> "Callable[[Options, Reporter], int | None]":
    """Return the function that does a command; it raises `NpdumpError` if it can't, and may return an exit code."""
    from npdump import plugins  # parsing needs the names alone

    run: Callable[[Options, Reporter], int | None] = plugins.get(__name__, name, "run")
    return run
