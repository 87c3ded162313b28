# SPDX-License-Identifier: GPL-2.0-or-later
"""What npdump does beside filtering a dump: one module per command, named as in `npdump.cli.options.COMMANDS`.

To add a command, add its name there and a module with a function ``run``: nothing else needs an edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npdump import plugins

if TYPE_CHECKING:
    from collections.abc import Callable

    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["get"]


def get(name: str) -> Callable[[Options, Reporter], int | None]:
    """Return the function that does a command; it raises `NpdumpError` if it can't, and may return an exit code."""
    run: Callable[[Options, Reporter], int | None] = plugins.get(__name__, name, "run")
    return run
