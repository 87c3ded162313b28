# SPDX-License-Identifier: GPL-2.0-or-later
"""Files beside the dump that tell about its kernel: vmlinux (``-x``) and VMCOREINFO files (``-i``).

What was read from a vmlinux is kept in the user's cache directory, under its build id: it takes seconds to read, and a
kernel crashes more than once.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
import shutil
import tempfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from npdump.codecs.zstd import open_frames
from npdump.errors import CodecError, FactError, NpdumpError, SourceError
from npdump.kernel.facts import dwarf, vmcoreinfo, vmcoreinfo_keys
from npdump.kernel.facts.external import ExternalFacts
from npdump.kernel.facts.types import Types

if TYPE_CHECKING:
    from collections.abc import Iterator


__all__ = ["load_external", "read_vmlinux"]

DEBUG_DIRECTORIES = ("/usr/lib/debug", "/usr/local/lib/debug")
MAX_VMCOREINFO_NBYTES = 1 << 20
MAX_VMLINUX_NBYTES = 8 << 30
"""Bound on what a compressed file may unpack to."""

_CACHE_FORM = 2
"""To be raised when what is kept changes."""

_LINK_BASES = ("_text", "_stext")
_EXTRA_SYMBOLS = frozenset((*_LINK_BASES, "__pgtable_l5_enabled", "sme_me_mask", "linux_banner"))
_OPENERS = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\0": lzma.open,
    b"\x28\xb5\x2f\xfd": open_frames,
}


def load_external(
    *, vmlinux: str | None = None, vmcoreinfo: str | None = None, work_dir: str | None = None
) -> ExternalFacts | None:
    """Return the facts of a file beside the dump, None if none is named.

    Parameters
    ----------
    vmlinux : str, optional
        Path of a kernel with debug information, or of its debug file; may be compressed.
    vmcoreinfo : str, optional
        Path of a text file that ``npdump -g`` made; it is read rather than ``vmlinux`` if both are named.
    work_dir : str, optional
        Directory to unpack a compressed vmlinux in.

    Raises
    ------
    SourceError, FactError, MissingDependency
        If the file cannot be read, or is not what it should be.

    Examples
    --------
    >>> load_external() is None
    True
    """
    if vmcoreinfo is not None:
        return _read_vmcoreinfo(vmcoreinfo)
    if vmlinux is not None:
        return read_vmlinux(vmlinux, work_dir)
    return None


def _read_vmcoreinfo(path: str) -> ExternalFacts:
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_VMCOREINFO_NBYTES)
    except OSError as error:
        raise SourceError(f"{path}: can't be read: {error.strerror}") from None
    facts = vmcoreinfo.parse(text, f"-i {path}")
    if facts.release is None:
        raise FactError(f"{path}: isn't a VMCOREINFO file: it has no OSRELEASE; npdump -g makes one from a vmlinux")
    return ExternalFacts(path, facts, facts.text("BUILD-ID"), facts.get("SYMBOL(_stext)"))


def read_vmlinux(path: str, work_dir: str | None = None) -> ExternalFacts:
    """Read a kernel's own file, which may be compressed.

    Parameters
    ----------
    path : str
    work_dir : str, optional
        Where to unpack it.

    Raises
    ------
    SourceError, FactError, MissingDependency
    """
    try:
        with _opened(path, work_dir) as file:
            identity = dwarf.build_id(file)
            vmlinux = _load(identity)
            if vmlinux is None:
                vmlinux = _read_with_debug(file, identity, work_dir)
                _store(vmlinux)
    except FactError as error:
        raise FactError(f"{path}: {error}") from None
    except (OSError, EOFError, CodecError, lzma.LZMAError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SourceError(f"{path}: can't be read: {reason}") from None
    release = vmcoreinfo_keys.release_of(vmlinux.banner)
    facts = vmcoreinfo_keys.from_types(vmlinux.symbols, vmlinux.types, release, f"{vmlinux.origin} of {path}")
    base = next((vmlinux.symbols[name] for name in _LINK_BASES if name in vmlinux.symbols), None)
    return ExternalFacts(path, facts, vmlinux.build_id, base, vmlinux.types)


@contextmanager
def _opened(path: str, work_dir: str | None) -> Iterator[IO[bytes]]:
    """Open a file; one that is compressed is unpacked to a temporary file first, which has no name."""
    with open(path, "rb") as file:
        head = file.read(8)
        file.seek(0)
        opener: Any = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
        if opener is None:
            yield file
            return
        with tempfile.TemporaryFile(dir=work_dir) as unpacked:
            stream = opener(file)
            try:
                shutil.copyfileobj(stream, _Bounded(unpacked), 1 << 20)
            except (OSError, NpdumpError):
                raise
            except Exception as error:  # each library has its own
                raise FactError(f"is damaged: {error}") from None
            unpacked.seek(0)
            yield unpacked


class _Bounded:
    """A file that doesn't grow beyond `MAX_VMLINUX_NBYTES`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        if self._file.tell() + len(data) > MAX_VMLINUX_NBYTES:
            raise FactError(f"unpacks to more than {MAX_VMLINUX_NBYTES} bytes: it isn't a vmlinux")
        return self._file.write(data)


def _read_with_debug(file: IO[bytes], build_id: str | None, work_dir: str | None) -> dwarf.Vmlinux:
    """Read a vmlinux, and the file that its debug information was split off to, if there is one."""
    failure = None
    try:
        vmlinux = dwarf.read(file)
        if vmlinux.origin == "DWARF":
            return vmlinux
    except FactError as error:
        vmlinux, failure = None, error
    for path in _debug_files(build_id):
        with suppress(OSError, FactError), _opened(path, work_dir) as debug:
            if dwarf.build_id(debug) == build_id:
                return dwarf.read(file, debug)
    if vmlinux is None:
        raise failure or FactError("can't be read")
    if vmlinux.origin == "symbols":
        raise FactError("has neither DWARF nor BTF, and no debug file has its build id: give another")
    return vmlinux


def _debug_files(build_id: str | None) -> list[str]:
    if not build_id:
        return []
    return [f"{directory}/.build-id/{build_id[:2]}/{build_id[2:]}.debug" for directory in DEBUG_DIRECTORIES]


def _cache_path(build_id: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "npdump" / f"kernel-{build_id}.json"


def _load(build_id: str | None) -> dwarf.Vmlinux | None:
    if not build_id:
        return None
    try:
        kept = json.loads(_cache_path(build_id).read_text(encoding="utf-8"))
        if kept["form"] != _CACHE_FORM or kept["build_id"] != build_id:
            return None
        symbols = {str(name): int(value) for name, value in kept["symbols"].items()}
        return dwarf.Vmlinux(build_id, kept["banner"], symbols, Types.from_json(kept["types"]), str(kept["origin"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not there, or damaged: it's made anew


def _store(vmlinux: dwarf.Vmlinux) -> None:
    if not vmlinux.build_id:
        return
    wanted = {key[7:-1] for key in vmcoreinfo_keys.KEYS if key.startswith("SYMBOL(")} | _EXTRA_SYMBOLS
    kept = {
        "form": _CACHE_FORM,
        "build_id": vmlinux.build_id,
        "banner": vmlinux.banner,
        "origin": vmlinux.origin,
        "symbols": {name: value for name, value in vmlinux.symbols.items() if name in wanted},
        "types": vmlinux.types._asdict(),
    }
    path = _cache_path(vmlinux.build_id)
    # A cache that can't be written is no reason to stop.
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(kept, file)
        os.replace(part, path)
