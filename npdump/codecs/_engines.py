# SPDX-License-Identifier: GPL-2.0-or-later
"""Choosing between libraries that do the same job, whichever are installed, and calling those of the system."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from npdump.core import CORE
from npdump.errors import MissingDependency

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable, Mapping

    from npdump.codecs import DecodePages, EncodePages

__all__ = ["Call", "Context", "Engine", "Native", "choose", "decoder_by_thread", "describe", "load_library"]


class Engine(NamedTuple):
    """A library that a codec can use.

    ``load`` imports it and returns what the codec makes its encoder of; it raises ImportError or OSError if the
    library isn't there. ``version`` takes that and returns what `describe` shows. ``hint`` says how to get it.
    """

    load: Callable[[], Any]
    version: Callable[[Any], str]
    hint: str


class NoCore(OSError):
    """There is no compiled core, which alone calls shared libraries."""


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
    found_hints = []
    for engine_name, engine in wanted.items():
        try:
            return engine_name, engine.load()
        except NoCore:
            found_hints.append(f"install a C compiler and npdump again, so that it can call {engine_name}")
        except (ImportError, OSError):
            found_hints.append(engine.hint)
    hints = " or ".join(found_hints)
    raise MissingDependency(f"{what} needs {' or '.join(wanted)}, which isn't installed: {hints}")


def describe(engines: Mapping[str, Engine]) -> list[str]:
    """Return a line for each engine: its name and version, or how to get it."""
    lines = []
    for name, engine in engines.items():
        try:
            lines.append(f"{name} {engine.version(engine.load())}".rstrip())
        except NoCore:
            lines.append(f"{name} (needs the compiled core)")
        except (ImportError, OSError):
            lines.append(f"{name} (not installed: {engine.hint})")
    return lines


def load_library(*names: str) -> ctypes.CDLL:
    """Load the first shared library that is there, for the core to call.

    Parameters
    ----------
    *names : str
        File names, as ``liblzo2.so.2``: the number is that of the interface.

    Raises
    ------
    OSError
        If there is none, or no core to call it.
    """
    import ctypes  # NumPy has it imported already

    if CORE is None:
        raise NoCore
    error = OSError("no name")
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError as why:
            error = why
    raise error


class Call(IntEnum):
    """How the core calls an engine's functions; ``_core.c`` has the same numbers.

    ``n`` and ``m`` are numbers of bytes, ``*m`` is the room there is and becomes what was made.
    """

    COPY = 0
    """Not at all: pages are stored as they are."""
    WORK = 1
    """``int f(from, n, to, *m, context)`` in both directions; 0 is success. LZO."""
    PLAIN = 2
    """``int f(from, n, to, *m)`` in both directions; 0 is success. snappy."""
    LEVEL = 3
    """``m = f(context, to, room, from, n, level)``, and the same without level to uncompress. zstd."""
    CONTEXT = 4
    """``m = f(context, from, n, to, room)``, and ``int f(context, from, n, to, room, *m)``. libdeflate."""
    STREAM = 5
    """``f(context, Z_FINISH)`` after ``reset(context)``; the context begins as ``z_stream`` does. zlib."""
    STREAM32 = 6
    """``f(context)``; the context begins as ``isal_zstream`` does, of which ``level`` bytes are first set to ``reset``.

    ISA-L."""


class Context:
    """Something that a library made, at an address, and gives back in the end."""

    def __init__(self, address: int, free: Callable[[int], object]) -> None:
        if not address:
            raise MemoryError
        self.address = address
        self._free = free

    def __del__(self) -> None:
        self._free(self.address)


class Native(NamedTuple):
    """A function of a shared library, as the core calls it.

    Attributes
    ----------
    call : Call
    function : object or None
        A function of a ``ctypes`` library.
    context : object or None
        A `Context`, or a ``ctypes`` array or structure; one thread uses it at a time.
    reset : object or None
        A function to be called before each page, or what the context begins with.
    level : int
        Where the call takes one.
    """

    call: Call
    function: Any = None
    context: Any = None
    reset: Any = None
    level: int = 0

    def _engine(self) -> tuple[int, int, int, int, int]:
        import ctypes

        def address(function: Any) -> int:
            return 0 if function is None else ctypes.cast(function, ctypes.c_void_p).value or 0

        context = self.context
        at = context.address if isinstance(context, Context) else 0 if context is None else ctypes.addressof(context)
        return int(self.call), address(self.function), address(self.reset), at, self.level

    def encoder(self, page_size: int) -> EncodePages:
        """Return an encoder; see `npdump.codecs.EncodePages`."""
        assert CORE is not None
        compress, engine, kept = CORE.compress, self._engine(), self.context

        def encode(pages: Any, rows: Any, out: Any, sizes: Any) -> int:
            made: int = compress(page_size, pages, rows, out, sizes, engine)
            return made

        encode.context = kept  # type: ignore[attr-defined]  # it lives as long as the encoder
        return encode

    def decoder(self, page_size: int) -> DecodePages:
        """Return a decoder; see `npdump.codecs.DecodePages`."""
        import numpy as np

        assert CORE is not None
        uncompress, engine, kept = CORE.uncompress, self._engine(), self.context

        def decode(data: Any, starts: Any, sizes: Any, out: Any, rows: Any) -> Any:
            good = np.empty(len(rows), np.bool_)
            uncompress(page_size, data, starts, sizes, out, rows, good, engine)
            return good

        decode.context = kept  # type: ignore[attr-defined]
        return decode


def decoder_by_thread(make: Callable[[], Native], page_size: int) -> DecodePages:
    """Return a decoder that makes a context for each thread that uses it."""
    import threading

    own = threading.local()

    def decode(data: Any, starts: Any, sizes: Any, out: Any, rows: Any) -> Any:
        if not hasattr(own, "decode"):
            own.decode = make().decoder(page_size)
        return own.decode(data, starts, sizes, out, rows)

    return decode
