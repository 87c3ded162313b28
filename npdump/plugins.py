# SPDX-License-Identifier: GPL-2.0-or-later
"""Plug-ins: the modules of a package, and what other distributions add to it.

Every package of plug-ins (machines, codecs, input and output formats, …) finds them here, by name. A module whose name
begins with an underscore is a part of others and no plug-in. A distribution adds one with an entry point whose group
is the package's name:

    [options.entry_points]
    npdump.codecs =
        brotli = my_package.brotli
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from npdump.errors import PackingError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

__all__ = ["each", "get", "module", "names"]

_METADATA = (".dist-info", ".egg-info")


@cache
def names(package: str) -> tuple[str, ...]:
    """Return the names of the plug-ins that a package has itself, in alphabetical order.

    Parameters
    ----------
    package : str
        Such as ``npdump.codecs``.

    Raises
    ------
    PackingError
        If there are none: a program that packs npdump into a file left them out.

    Examples
    --------
    >>> names("npdump.codecs")
    ('lzo', 'raw', 'snappy', 'zlib', 'zstd')
    """
    path = importlib.import_module(package).__path__
    found = tuple(sorted(info.name for info in pkgutil.iter_modules(path) if not info.name.startswith("_")))
    if not found:
        raise PackingError(
            f"{package}: none of its modules is here: npdump was packed without them; pack it with all of its modules "
            "(PyInstaller: --collect-submodules npdump)"
        )
    return found


def each(package: str, attribute: str, first: str | None = None) -> Iterator[Any]:
    """Yield what the plug-ins of a package offer, one import at a time.

    Parameters
    ----------
    package : str
    attribute : str
        What a plug-in calls it, such as ``CODEC``; modules that have none are passed over.
    first : str, optional
        The plug-in to begin with, if there is one of that name.

    Yields
    ------
    object
        Those of other distributions come last: looking for them takes as long as importing all of npdump does.
    """
    for name in sorted(names(package), key=lambda name: name != first):
        plugin = importlib.import_module(f"{package}.{name}")
        if hasattr(plugin, attribute):
            yield getattr(plugin, attribute)
    for target in _added(package).values():
        yield getattr(importlib.import_module(target), attribute)


def get(package: str, name: str, attribute: str) -> Any:
    """Return what one plug-in offers.

    Raises
    ------
    ModuleNotFoundError
        If there is no plug-in of that name.
    """
    return getattr(module(package, name), attribute)


def module(package: str, name: str) -> ModuleType:
    """Return the module of one plug-in; raises as `get`."""
    target = f"{package}.{name}" if name in names(package) else _added(package).get(name, f"{package}.{name}")
    return importlib.import_module(target)


@cache
def _added(package: str) -> dict[str, str]:
    """Return the modules that entry points name, by the name of the plug-in."""
    if not _is_named(package):
        return {}
    from importlib.metadata import entry_points  # 20 ms, and seldom needed

    return {point.name: point.value for point in entry_points(group=package)}


def _is_named(package: str) -> bool:
    """Return whether an installed distribution may have entry points for a package: a look at their files tells."""
    for folder in sys.path:
        try:
            found = [entry.path for entry in os.scandir(folder or ".") if entry.name.endswith(_METADATA)]
        except OSError:
            if os.path.exists(folder):
                return True  # an archive
            continue
        for path in found:
            with suppress(OSError), open(f"{path}/entry_points.txt", encoding="utf-8", errors="replace") as file:
                if package in file.read():
                    return True
    return False
