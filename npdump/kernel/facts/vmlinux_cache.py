# SPDX-License-Identifier: GPL-2.0-or-later
"""What was read from a vmlinux, kept in the user's cache directory under its build id.

Reading one takes seconds, and a kernel crashes more than once. What is kept is believed, so that it must be the
user's own: nothing is read through a link, from a pipe, or out of a directory of somebody else.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npdump.kernel.facts.types import Types, Vmlinux

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["load", "store"]

_FORM = 5
"""To be raised when what is kept changes."""

MAX_NBYTES = 16 << 20
"""Bytes of a file; some kilobytes is what it takes."""


def load(build_id: str | None) -> Vmlinux | None:
    """Return what is kept of a vmlinux, None if nothing is.

    Raises
    ------
    ValueError
        If something is there that is not what `store` wrote, or is not the user's; the message says what.
    """
    if not build_id:
        return None
    try:
        raw = _read(_path(build_id))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{_path(build_id)}: can't be read: {error.strerror}") from error
    try:
        return _parse(json.loads(raw), build_id)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{_path(build_id)}: is damaged") from error


def store(vmlinux: Vmlinux, symbols: Collection[str]) -> None:
    """Keep what was read of a vmlinux, of its symbols those that are asked for; if that fails, it is not kept."""
    if not vmlinux.build_id:
        return
    kept = {
        "form": _FORM,
        "build_id": vmlinux.build_id,
        "banner": vmlinux.banner,
        "origin": vmlinux.origin,
        "symbols": {name: value for name, value in vmlinux.symbols.items() if name in symbols},
        "types": vmlinux.types._asdict(),
    }
    path = _path(vmlinux.build_id)
    # A cache that can't be written is no reason to stop.
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _own_directory(path.parent):
            handle, part = tempfile.mkstemp(dir=path.parent)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(kept, file)
                os.replace(part, path)
            except OSError:
                os.unlink(part)


def _path(build_id: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "npdump" / f"kernel-{build_id}.json"


@contextmanager
def _own_directory(path: Path) -> Iterator[int]:
    """Open a directory that is the user's own, and no link to one."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(handle).st_uid != os.geteuid():
            raise PermissionError(1, "its directory belongs to another user")
        yield handle
    finally:
        os.close(handle)


def _read(path: Path) -> bytes:
    # O_NONBLOCK: a pipe would wait for a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with _own_directory(path.parent) as directory, open(os.open(path.name, flags, dir_fd=directory), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_size > MAX_NBYTES:
            raise PermissionError(1, "it isn't a file that npdump made for this user")
        return file.read(MAX_NBYTES)


def _parse(kept: Any, build_id: str) -> Vmlinux | None:
    if kept["form"] != _FORM:
        return None  # another version's
    banner, origin = kept["banner"], kept["origin"]
    if kept["build_id"] != build_id or not isinstance(banner, str | None) or origin not in ("DWARF", "BTF", "symbols"):
        raise ValueError("not what was stored")
    symbols = {str(name): int(value) for name, value in kept["symbols"].items()}
    return Vmlinux(build_id, banner, symbols, Types.from_json(kept["types"]), origin)
