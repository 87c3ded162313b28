# SPDX-License-Identifier: GPL-2.0-or-later
"""Files beside the dump that tell about its kernel: vmlinux (``-x``) and VMCOREINFO files (``-i``).

What was read from a vmlinux is kept (`npdump.kernel.facts.vmlinux_cache`).
"""

from __future__ import annotations

import glob
import gzip
import lzma
import re
import shutil
import tempfile
import zlib
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

from npdump.codecs.zstd import open_frames
from npdump.errors import CodecError, FactError, NpdumpError, SourceError
from npdump.kernel.facts import btf, dwarf, elf_symbols, vmcoreinfo, vmcoreinfo_keys, vmlinux_cache
from npdump.kernel.facts.external import ExternalFacts
from npdump.kernel.facts.types import Types, Vmlinux
from npdump.observer import SILENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.kernel.facts.graph import TypeGraph
    from npdump.observer import Observer

__all__ = ["load_external", "module_debug_file", "open_graphs", "read_vmlinux"]

DEBUG_DIRECTORIES = ("/usr/lib/debug", "/usr/local/lib/debug")
MAX_VMCOREINFO_NBYTES = 1 << 20
MAX_VMLINUX_NBYTES = 8 << 30
"""Bound on what a compressed file may unpack to."""

_LINK_BASES = ("_text", "_stext")
_KEPT_SYMBOLS = frozenset(
    (
        *(key[7:-1] for key in vmcoreinfo_keys.KEYS if key.startswith("SYMBOL(")),
        *_LINK_BASES,
        "__pgtable_l5_enabled",
        "sme_me_mask",
        "linux_banner",
    )
)
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
            text = file.read(MAX_VMCOREINFO_NBYTES) or b""
    except OSError as error:
        raise SourceError(f"{path}: can't be read: {error.strerror}") from None
    facts = vmcoreinfo.parse(text, f"-i {path}")
    if facts.release is None:
        raise FactError(f"{path}: isn't a VMCOREINFO file: it has no OSRELEASE; npdump -g makes one from a vmlinux")
    return ExternalFacts(path, facts, facts.text("BUILD-ID"), facts.get("SYMBOL(_stext)"))


def read_vmlinux(path: str, work_dir: str | None = None, observer: Observer = SILENT) -> ExternalFacts:
    """Read a kernel's own file, which may be compressed.

    Parameters
    ----------
    path : str
    work_dir : str, optional
        Where to unpack it.
    observer : Observer
        Hears of a cache that is not used.

    Raises
    ------
    SourceError, FactError, MissingDependency
    """
    try:
        with _opened(path, work_dir) as file:
            build_id = elf_symbols.build_id(elf_symbols.open_elf(file))
            try:
                vmlinux = vmlinux_cache.load(build_id)
            except ValueError as error:
                observer.warn(f"{error}: the vmlinux is read again")
                vmlinux = None
            if vmlinux is None:
                vmlinux = _read_with_debug(file, build_id, work_dir)
                vmlinux_cache.store(vmlinux, _KEPT_SYMBOLS)
    except FactError as error:
        raise FactError(f"{path}: {error}") from error
    except (OSError, EOFError, CodecError, lzma.LZMAError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SourceError(f"{path}: can't be read: {reason}") from error
    release = vmcoreinfo_keys.release_of(vmlinux.banner)
    facts = vmcoreinfo_keys.from_types(vmlinux.symbols, vmlinux.types, release, f"{vmlinux.origin} of {path}")
    base = next((vmlinux.symbols[name] for name in _LINK_BASES if name in vmlinux.symbols), None)
    return ExternalFacts(path, facts, vmlinux.build_id, base, vmlinux.types)


@contextmanager
def open_graphs(path: str, work_dir: str | None = None) -> Iterator[tuple[list[TypeGraph], dict[str, int]]]:
    """Open a kernel's own file, or a module's, for all types that its debug information tells.

    Parameters
    ----------
    path : str
        May be compressed; its debug information may be in a file of its own.
    work_dir : str, optional
        Where to unpack it.

    Yields
    ------
    graphs : list of TypeGraph
        The best one first; empty if there is no debug information.
    symbols : dict of str to int
        Addresses, as linked.

    Raises
    ------
    SourceError, FactError
        If it cannot be read, or is damaged.
    """
    from npdump.kernel.facts.btf_graph import BtfGraph  # seldom needed
    from npdump.kernel.facts.dwarf_graph import DwarfGraph

    with ExitStack() as stack:
        try:
            elf = elf_symbols.open_elf(stack.enter_context(_opened(path, work_dir)))
            candidates = [elf]
            for debug_path in _debug_files(elf_symbols.build_id(elf)):
                with suppress(OSError, FactError):
                    candidates.append(elf_symbols.open_elf(stack.enter_context(_opened(debug_path, work_dir))))
            graphs: list[TypeGraph] = []
            symbols: dict[str, int] = {}
            for candidate in candidates:
                symbols = symbols or elf_symbols.symbols(candidate)
                if not graphs and elf_symbols.has_dwarf(candidate):
                    graphs.append(DwarfGraph(candidate))
            raw = elf_symbols.section(elf, ".BTF")
            if raw is not None and elf["e_type"] != "ET_REL":
                graphs.append(BtfGraph(raw, elf_symbols.byte_order(elf), elf.elfclass // 8))
        except FactError as error:
            raise FactError(f"{path}: {error}") from error
        except (OSError, EOFError, CodecError, lzma.LZMAError, zlib.error) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise SourceError(f"{path}: can't be read: {reason}") from error
        yield graphs, symbols


@contextmanager
def _opened(path: str, work_dir: str | None) -> Iterator[IO[bytes]]:
    """Open a file; one that is compressed is unpacked to a temporary file first, which has no name."""
    with open(path, "rb") as file:
        head = file.read(8) or b""
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
    """A file that does not grow beyond `MAX_VMLINUX_NBYTES`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        if self._file.tell() + len(data) > MAX_VMLINUX_NBYTES:
            raise FactError(f"unpacks to more than {MAX_VMLINUX_NBYTES} bytes: it isn't a vmlinux")
        return self._file.write(data)


def _read_with_debug(file: IO[bytes], build_id: str | None, work_dir: str | None) -> Vmlinux:
    """Read a vmlinux, and the file that its debug information was split off to, if there is one."""
    failure = None
    try:
        vmlinux = _read(file, file)
        if vmlinux.origin == "DWARF":
            return vmlinux
    except FactError as error:
        vmlinux, failure = None, error
    for path in _debug_files(build_id):
        with suppress(OSError, FactError), _opened(path, work_dir) as debug:
            if elf_symbols.build_id(elf_symbols.open_elf(debug)) == build_id:
                return _read(file, debug)
    if vmlinux is None:
        raise failure or FactError("can't be read")
    if vmlinux.origin == "symbols":
        raise FactError("has neither DWARF nor BTF, and no debug file has its build id: give another")
    return vmlinux


def _read(file: IO[bytes], debug: IO[bytes]) -> Vmlinux:
    """Read a vmlinux; ``debug`` is the file with its debug information.

    Raises
    ------
    FactError
        If it is damaged, or has no symbols.
    """
    elf, debug_elf = elf_symbols.open_elf(file), elf_symbols.open_elf(debug)
    symbols = elf_symbols.symbols(debug_elf) or elf_symbols.symbols(elf)
    if not symbols:
        raise FactError("has no symbols: give the vmlinux of the kernel's debug package")
    banner = elf_symbols.banner(elf, symbols.get("linux_banner"))
    types, origin = dwarf.read_types(debug_elf, symbols), "DWARF"
    if not types.structs:
        raw = elf_symbols.section(debug_elf, ".BTF")
        origin = "symbols" if raw is None else "BTF"
        types = Types.none() if raw is None else btf.parse(raw, elf_symbols.byte_order(elf), elf.elfclass // 8)
    return Vmlinux(elf_symbols.build_id(elf), banner, symbols, types, origin)


def module_debug_file(name: str, release: str | None) -> str | None:
    """Return the path of a module's debug information, None if it isn't where distributions install it."""
    if not release or "/" in release:
        return None
    # In a file's name an underscore may be a hyphen.
    pattern = f"{glob.escape(release)}/**/{re.sub('[-_]', '[-_]', glob.escape(name))}.ko*"
    for directory in DEBUG_DIRECTORIES:
        found = glob.glob(f"{directory}/lib/modules/{pattern}", recursive=True)
        if found:
            return min(found)
    return None


def _debug_files(build_id: str | None) -> list[str]:
    if not build_id:
        return []
    return [f"{directory}/.build-id/{build_id[:2]}/{build_id[2:]}.debug" for directory in DEBUG_DIRECTORIES]
