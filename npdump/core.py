# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiled core: what is done for every page, a batch of pages a call, without the interpreter's lock.

It is optional. Where it was not built, or where the environment says ``NPDUMP_CORE=0``, NumPy and Python's own engines
do the same, page for page; whoever calls the core has that other way beside it.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["CORE", "description", "failure"]


INTERFACE = "interface 4"
"""What the core says of itself; another number, with each change of what its functions take."""


def _load() -> ModuleType | None:
    core = _find()
    if core is not None and core.__doc__ != INTERFACE:
        _failures.append("built from other source: reinstall")
        return None
    return core


def _find() -> ModuleType | None:
    if os.environ.get("NPDUMP_CORE") == "0":
        return None
    try:
        return importlib.import_module("npdump._core")
    except ModuleNotFoundError:
        return _load_from_archive(globals().get("__loader__"))
    except ImportError as error:  # a file that is there, and that the loader refuses
        _failures.append(f"{error}: reinstall")
        return None


def _load_from_archive(loader: object) -> ModuleType | None:
    """Load the core that is in the archive which this module came from: the system loads libraries from files only."""
    if not hasattr(loader, "archive"):
        return None
    from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
    from importlib.util import module_from_spec, spec_from_file_location

    for suffix in EXTENSION_SUFFIXES:
        try:
            data = loader.get_data(f"{loader.archive}/npdump/_core{suffix}")  # type: ignore[attr-defined]
        except OSError:
            continue
        try:
            file = os.memfd_create("npdump._core")  # no name on any disk, gone with the process
            os.write(file, data)
            path = f"/proc/self/fd/{file}"
            spec = spec_from_file_location("npdump._core", path, loader=ExtensionFileLoader("npdump._core", path))
            assert spec is not None
            module = module_from_spec(spec)
        except (ImportError, OSError) as error:
            _failures.append(f"{error}: reinstall")
            return None
        os.close(file)
        sys.modules["npdump._core"] = module
        return module
    return None


_failures: list[str] = []
CORE = _load()


def failure() -> str | None:
    """Return why a core that is there can't be loaded; None if it was, or if there is none."""
    return _failures[0] if _failures else None


def description() -> str:
    """Return what ``npdump --version`` says of the core."""
    if CORE is not None:
        return "compiled"
    why = "NPDUMP_CORE=0" if os.environ.get("NPDUMP_CORE") == "0" else "not built: install a C compiler and reinstall"
    return f"none ({failure() or why}); NumPy does its work"
