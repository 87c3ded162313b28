# SPDX-License-Identifier: GPL-2.0-or-later
"""What needs a library that npdump itself does without: one library a file, imported when it is used.

Nothing below the public classes knows these, and ``import npdump`` loads none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from npdump.errors import MissingDependency

__all__ = ["require"]


def require(module: str, package: str, purpose: str) -> Any:
    """Import an optional library.

    Parameters
    ----------
    module : str
        What to import.
    package : str
        What to install for it.
    purpose : str
        What needs it, as the subject of a sentence in the plural.

    Raises
    ------
    MissingDependency
        In one line that names the package.

    Examples
    --------
    >>> require("json", "json", "examples").__name__
    'json'
    >>> require("no_such_module", "nothing", "examples")
    Traceback (most recent call last):
    npdump.errors.MissingDependency: examples need nothing, which is not installed: pip install nothing
    """
    try:
        return import_module(module)
    except ImportError as error:
        text = f"{purpose} need {package}, which is not installed: pip install {package}"
        raise MissingDependency(text) from error
