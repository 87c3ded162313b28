# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiled core: what is done for every page, a batch of pages a call, without the interpreter's lock.

It is optional. Where it was not built, or where the environment says ``NPDUMP_CORE=0``, NumPy and Python's own engines
do the same, page for page; whoever calls the core has that other way beside it.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["CORE", "description"]


def _load() -> ModuleType | None:
    if os.environ.get("NPDUMP_CORE") == "0":
        return None
    try:
        return importlib.import_module("npdump._core")
    except ImportError:
        return None


CORE = _load()


def description() -> str:
    """Return what ``npdump --version`` says of the core."""
    if CORE is not None:
        return "compiled"
    why = "NPDUMP_CORE=0" if os.environ.get("NPDUMP_CORE") == "0" else "not built: install a C compiler and reinstall"
    return f"none ({why}); NumPy does its work"
