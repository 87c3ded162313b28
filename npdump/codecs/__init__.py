"""Page compressions, one file each.

To add one, add a module with a ``CODEC`` object: nothing else needs an edit. Two engines may serve one codec only if
each can decode what the other encodes. Importable without NumPy, and without any of the engines.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from npdump.layouts.page_flag import PageFlag

__all__ = ["Codec", "EncodePages", "all_codecs", "get"]

EncodePages = Callable[[Sequence[Any]], list[Any]]
"""Takes the pages' buffers and returns, for each, a buffer that holds it compressed."""


class Codec(Protocol):
    """What a module of this package offers as ``CODEC``."""

    name: str
    flag: PageFlag
    engine_names: tuple[str, ...]
    """In order of preference."""

    def engines(self) -> list[str]:
        """Return, for each engine, its name with its version, or how to get it."""

    def encoder(self, page_size: int, engine: str | None = None) -> EncodePages:
        """Return a new encoder. It owns its state: each worker makes its own.

        Raises
        ------
        MissingDependency
            If ``engine`` (default: every engine) isn't installed.
        """


def all_codecs() -> Iterable[Codec]:
    """Yield the codecs, by name."""
    for info in pkgutil.iter_modules(__path__):
        yield importlib.import_module(f"{__name__}.{info.name}").CODEC


def get(name: str) -> Codec:
    """Return a codec by its name, which is that of its module.

    Raises
    ------
    ModuleNotFoundError
        If there is none.
    """
    codec: Codec = importlib.import_module(f"{__name__}.{name}").CODEC
    return codec
