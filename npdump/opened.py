# SPDX-License-Identifier: GPL-2.0-or-later
"""From paths to a crashed kernel and its memory: the first half of the sentence, each step made when it is asked for.

storage → sources → arch → kernel
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from npdump.arch import Arch, by_machine
from npdump.arrays import contains
from npdump.errors import AddressError, FactError, UsageError
from npdump.kernel import probe, texts
from npdump.kernel.facts import kallsyms
from npdump.kernel.xen import XenFiles
from npdump.observer import SILENT, Observer
from npdump.sources import Source, open_source
from npdump.sources._notes import has_xen_info
from npdump.storage import ReadOptions, open_storage

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

    from npdump.facts import Facts
    from npdump.kernel.facts.external import ExternalFacts
    from npdump.kernel.facts.graph import TypeGraph
    from npdump.kernel.kernel import Kernel
    from npdump.kernel.memory import VirtualMemory
    from npdump.kernel.names import Names
    from npdump.kernel.xen.domain import PhysToMachine
    from npdump.kernel.xen.hypervisor import Hypervisor
    from npdump.storage import Storage

__all__ = ["Opened", "PhysicalMemory", "Translation"]


@dataclass(frozen=True, slots=True)
class Translation:
    """Where a kernel virtual address is in physical memory.

    Attributes
    ----------
    vaddr, paddr : int
    pfn : int
        Page frame of ``paddr``.
    is_dumped : bool
        Whether that page is in the dump.
    """

    vaddr: int
    paddr: int
    pfn: int
    is_dumped: bool


@dataclass(frozen=True, slots=True)
class PhysicalMemory:
    """The dump's memory by physical address."""

    source: Source

    def read(self, paddr: int, nbytes: int) -> bytes:
        """Return the bytes ``[paddr, paddr + nbytes)``.

        Raises
        ------
        AddressError
            If a page of that range is not in the dump. Bytes of a partly dumped page that are not there are 0.
        """
        return self.source.view(paddr, nbytes).tobytes()


class Opened:
    """A dump, its machine, its kernel and its memory, found when they are first asked for; see `npdump.dump.open`.

    Attributes
    ----------
    path : str
        Of the first file.
    paths : tuple of str
    vmlinux : str or None
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *more: str | os.PathLike[str],
        vmlinux: str | os.PathLike[str] | None = None,
        vmcoreinfo: str | os.PathLike[str] | None = None,
        override: bool = False,
        vmcoreinfo_at: int | None = None,
        use_mmap: bool = True,
        work_dir: str | os.PathLike[str] | None = None,
        machine: str | None = None,
        max_unpacked_nbytes: int | None = None,
        identity: str | os.PathLike[str] | None = None,
        xen: XenFiles | None = None,
        observer: Observer = SILENT,
    ) -> None:
        self.paths = tuple(os.fspath(part) for part in (path, *more))
        self.path = self.paths[0]
        self.vmlinux = None if vmlinux is None else os.fspath(vmlinux)
        self._vmcoreinfo = None if vmcoreinfo is None else os.fspath(vmcoreinfo)
        self._override = override
        self._vmcoreinfo_at = vmcoreinfo_at
        self.reading = ReadOptions(
            use_mmap,
            None if work_dir is None else os.fspath(work_dir),
            max_unpacked_nbytes,
            None if identity is None else os.fspath(identity),
        )
        self._machine = machine
        self._xen = XenFiles() if xen is None else xen
        self.observer = observer
        self._stack = ExitStack()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<npdump.{type(self).__name__} {', '.join(self.paths)}{' (closed)' if self._is_closed else ''}>"

    def __reduce__(self) -> tuple[Any, ...]:
        options: dict[str, Any] = {
            "vmlinux": self.vmlinux,
            "vmcoreinfo": self._vmcoreinfo,
            "override": self._override,
            "vmcoreinfo_at": self._vmcoreinfo_at,
            "use_mmap": self.reading.use_mmap,
            "work_dir": self.reading.work_dir,
            "machine": self._machine,
            "max_unpacked_nbytes": self.reading.max_unpacked_nbytes,
            "identity": self.reading.identity,
            "xen": self._xen,
        }
        return partial(type(self), *self.paths, **options), ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        self._is_closed = True
        self._stack.close()

    @cached_property
    def storages(self) -> tuple[Storage, ...]:
        """The bytes of the files, taken out of what compresses or flattens them as a whole.

        Raises
        ------
        SourceError, SinkError, MissingDependency
            If a file cannot be opened or unpacked.
        UsageError
            If the dump was closed.
        """
        if self._is_closed:
            raise UsageError(f"{self.path}: was closed: open it again")
        return tuple(open_storage(path, self.reading, self.observer, self._stack) for path in self.paths)

    @cached_property
    def source(self) -> Source:
        """The physical memory image, uninterpreted.

        Raises
        ------
        SourceError
            If the files are not a dump, or damaged.
        UsageError
            If there is no VMCOREINFO at ``vmcoreinfo_at``.
        """
        source = self._as_opened
        arch = self._as_kernel_sees(by_machine(source.header))
        if self._vmcoreinfo_at is None and has_xen_info(source.notes.area, source.header.byte_order):
            try:
                self._p2m  # noqa: B018  # without it no text leads to a kernel, and all memory would be searched for one
            except FactError:
                return source
        return texts.choose(source, arch, self.observer, self._vmcoreinfo_at)

    @cached_property
    def _as_opened(self) -> Source:
        """The image before it was looked at which VMCOREINFO is the right one."""
        source = open_source(*self.storages)
        return source if self._machine is None else source.as_machine(self._machine)

    @property
    def noted_vmcoreinfo(self) -> bytes | None:
        """The VMCOREINFO among the notes, which need not be the one that is used; None if there is none."""
        return self._as_opened.notes.vmcoreinfo

    @cached_property
    def arch(self) -> Arch:
        """The machine, as the crashed kernel sees it; raises SourceError if npdump does not know it."""
        return self._as_kernel_sees(by_machine(self.source.header))

    def _as_kernel_sees(self, arch: Arch) -> Arch:
        source = self._as_opened
        if not has_xen_info(source.notes.area, source.header.byte_order):
            return arch
        from npdump.kernel.xen.domain import in_domain  # few dumps are of Xen

        return in_domain(arch, lambda: self._p2m)

    @cached_property
    def _p2m(self) -> PhysToMachine:
        from npdump.kernel.xen.domain import find_p2m

        return find_p2m(self._as_opened)

    def _with_p2m(self, kernel: Kernel) -> Kernel:
        """Note at the kernel that it ran in a domain of Xen, if it did."""
        is_xen = has_xen_info(self.source.notes.area, self.source.header.byte_order)
        return kernel._replace(p2m=replace(self._p2m, source=self.source)) if is_xen else kernel

    @cached_property
    def hypervisor(self) -> Hypervisor | None:
        """The Xen under the crashed kernel, None if there was none.

        Raises
        ------
        SourceError, FactError
            If it is not told enough of it, or a file that tells of it can't be read.
        """
        if not has_xen_info(self.source.notes.area, self.source.header.byte_order):
            return None
        from npdump.kernel.xen.facts import load_facts
        from npdump.kernel.xen.hypervisor import open_hypervisor

        facts = load_facts(self.source, self._xen.syms, self._xen.vmcoreinfo)
        return open_hypervisor(self.source, by_machine(self.source.header), facts, self._xen.phys_start)

    @cached_property
    def external(self) -> ExternalFacts | None:
        """Facts of ``vmlinux`` or ``vmcoreinfo``; raises SourceError or FactError if that is no such file."""
        if self.vmlinux is None and self._vmcoreinfo is None:
            return None
        from npdump.kernel.facts.vmlinux import load_external  # and pyelftools with it

        external = load_external(vmlinux=self.vmlinux, vmcoreinfo=self._vmcoreinfo, work_dir=self.reading.work_dir)
        return external and external._replace(overrides=self._override)

    @cached_property
    def kernel(self) -> Kernel:
        """The crashed kernel.

        Raises
        ------
        FactError, AddressError
            If the dump does not tell which kernel it is of, or where its memory is.
        VersionMismatch
            If ``vmlinux`` or ``vmcoreinfo`` is of another kernel.
        """
        return self._with_p2m(
            probe.find_kernel(self.source, self.arch, required=True, observer=self.observer, external=self.external)
        )

    @cached_property
    def frames(self) -> Source:
        """Memory by the kernel's own page frames: `source`, unless it ran in a domain of Xen; raises as `kernel`."""
        return self.source if self.kernel.p2m is None else self.kernel.p2m.frames

    def vmcoreinfo_texts(self) -> list[texts.KernelText]:
        """Return the VMCOREINFO texts in the dump; all of its memory is looked through.

        Examples
        --------
        >>> with npdump.open(vmcore) as dump:
        ...     [(text.number, text.fits) for text in dump.vmcoreinfo_texts()]
        [(1, True), (2, True)]
        """
        return texts.list_texts(self._as_opened, self.arch)

    @property
    def facts(self) -> Facts:
        """What is known of the kernel's symbols, structures and constants; raises as `kernel`.

        Examples
        --------
        >>> with npdump.open(vmcore) as dump:
        ...     dump.facts.release, dump.facts.get("OFFSET(page.flags)")
        ('6.1.0-56-cloud-amd64', 0)
        """
        return self.kernel.facts

    @property
    def memory(self) -> VirtualMemory:
        """Memory by kernel virtual address: ``memory.read(vaddr, nbytes)`` returns bytes; raises as `kernel`.

        Examples
        --------
        >>> with npdump.open(vmcore) as dump:
        ...     dump.memory.read(dump.facts.get("SYMBOL(init_uts_ns)"), 5)
        b'Linux'
        """
        return self.kernel.memory

    @property
    def physical(self) -> PhysicalMemory:
        """Memory by physical address: ``physical.read(paddr, nbytes)`` returns bytes."""
        return PhysicalMemory(self.source)

    def symbol(self, name: str) -> int:
        """Return the kernel address of a symbol: from VMCOREINFO, ``vmlinux``, or the kernel's own table.

        Parameters
        ----------
        name : str

        Raises
        ------
        FactError
            If no symbol of that name is known.

        Examples
        --------
        >>> with npdump.open(vmcore) as dump:
        ...     hex(dump.symbol("init_uts_ns"))
        '0xffffffff94ff9b60'
        """
        vaddr = self.facts.get(f"SYMBOL({name})")
        if vaddr is None:
            vaddr = self._symbols.get(name)
        if vaddr is None:
            raise FactError(
                f"{name}: no symbol of that name is known: neither VMCOREINFO nor the kernel's own table has it"
            )
        return vaddr

    @cached_property
    def _symbols(self) -> dict[str, int]:
        """The kernel's own table of symbols, empty if it has none that can be found."""
        if not kallsyms.is_there(self.facts):
            return {}
        try:
            return kallsyms.read(self.facts, self.memory.read, self.memory.word)
        except (AddressError, FactError):
            return {}

    @cached_property
    def names(self) -> Names:
        """All symbols and types of the kernel and its modules, by name; raises as `kernel`.

        Examples
        --------
        >>> with npdump.open(vmcore) as dump:
        ...     dump.names.symbol("init_uts_ns") == dump.facts.get("SYMBOL(init_uts_ns)")
        True
        """
        from npdump.kernel.names import Names

        kernel = self.kernel  # which compares it with the vmlinux
        if self.vmlinux is None:
            return Names(kernel)
        from npdump.kernel.facts import vmlinux  # and pyelftools with it

        work_dir = self.reading.work_dir
        graphs, linked = self._stack.enter_context(vmlinux.open_graphs(self.vmlinux, work_dir))

        def debug_graphs(name: str) -> tuple[list[TypeGraph], dict[str, int]]:
            path = vmlinux.module_debug_file(name, kernel.facts.release)
            return self._stack.enter_context(vmlinux.open_graphs(path, work_dir)) if path is not None else ([], {})

        return Names(kernel, graphs, linked, debug_graphs)

    def translate(self, vaddr: int) -> Translation:
        """Translate a kernel virtual address.

        Parameters
        ----------
        vaddr : int

        Raises
        ------
        AddressError
            If it is not mapped, or the machine has no such address.

        Examples
        --------
        >>> with npdump.open(vmcore) as dump:
        ...     dump.translate(dump.facts.get("SYMBOL(_stext)")).is_dumped
        True
        """
        kernel = self.kernel
        if not 0 <= vaddr < 1 << self.arch.bits:
            raise AddressError(f"{vaddr:#x} has more than the {self.arch.bits} bits of {self.arch.name}")
        (extent,) = kernel.memory.extents(vaddr, 1)
        if extent.paddr is None:
            raise AddressError(f"kernel address {vaddr:#x} isn't mapped in the dump's page tables")
        pfn = extent.paddr // self.source.page_size
        return Translation(vaddr, extent.paddr, pfn, contains(self.source.data_runs, pfn))

    def find_kernel(self, *, required: bool, observer: Observer) -> Kernel | None:
        """Return the crashed kernel; if it is not required, None and a warning where the dump does not tell."""
        if required or "kernel" in self.__dict__:
            return self.kernel
        kernel = probe.find_kernel(self.source, self.arch, required=False, observer=observer, external=self.external)
        if kernel is None:
            return None
        self.__dict__["kernel"] = kernel = self._with_p2m(kernel)
        return kernel
