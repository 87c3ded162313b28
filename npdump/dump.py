# SPDX-License-Identifier: GPL-2.0-or-later
"""One opened dump: what can be asked of it; what can be made of it is in `npdump.writable`.

`open` takes any form that the command takes. Nothing is read before it is asked for: the source, the machine and the
crashed kernel are found once, then.

The examples open ``vmcore``, the dump of a machine with 256 MiB of memory.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

from npdump import pipeline
from npdump.bitmap import in_file, in_memory
from npdump.errors import AddressError, FactError, MemmapError, UsageError
from npdump.kernel.probe import embedded_types
from npdump.observer import SILENT, Observer, Recorder
from npdump.pages.policy import MAX_DUMP_LEVEL
from npdump.pages.selfcheck import announce, check
from npdump.pipeline import ScanOptions
from npdump.writable import Writable, check_levels

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from npdump.answers.info import DumpInfo
    from npdump.answers.memory_map import MemoryMap
    from npdump.answers.usage import MemoryUsage
    from npdump.kernel import dmesg
    from npdump.kernel.facts.types import Types
    from npdump.kernel.kernel import Kernel
    from npdump.kernel.xen import XenFiles
    from npdump.pages.explain import Explainer, PageExplanation
    from npdump.pages.result import ScanResult
    from npdump.pages.selfcheck import Verdict

__all__ = ["Dump", "open"]


class Dump(Writable):
    """An opened dump; see `open` for the parameters.

    Attributes
    ----------
    path : str
        Of the first file.
    paths : tuple of str
    source, arch, kernel
        The physical memory image, the machine and the crashed kernel: what the answers are made of.

    Notes
    -----
    A dump is pickled by its parameters: the copy opens the files itself. Threads may share one once ``kernel`` was
    asked for; processes each open their own.
    """

    def _repr_html_(self) -> str:
        from npdump.pages.colors import human
        from npdump.pages.html import facts_table

        info = self.info
        return facts_table(
            {
                "dump": os.path.basename(info.file),
                "format": info.format,
                "release": info.release,
                "machine": info.machine,
                "crashed at": info.crash_time,
                "panic": info.panic,
                "memory": human(info.memory_nbytes),
                "pages in file": f"{info.n_data} of {info.n_ram}",
            }
        )

    @cached_property
    def info(self) -> DumpInfo:
        """What the dump is of, when and why its kernel crashed, and what is missing.

        Raises
        ------
        SourceError
            If it is no dump. What cannot be found out is in ``info.missing``, and is no error.

        Examples
        --------
        >>> with npdump.open(vmcore) as dump:
        ...     dump.info.machine, dump.info.page_size
        ('x86_64', 4096)
        """
        from npdump.answers.info import describe

        recorder = Recorder()
        kernel = self.find_kernel(required=False, observer=recorder)
        return describe(self.source, self.arch, kernel, self.storages, recorder.warnings, self._domains)

    def _domains(self) -> list[int]:
        return [] if self.hypervisor is None else [domain.number for domain in self.hypervisor.listed_domains]

    def log(self, partial: bool = False) -> dmesg.Log:
        """Return the kernel's log.

        Parameters
        ----------
        partial : bool
            Only what came after the log was last cleared (``dmesg --clear``).

        Raises
        ------
        FactError, AddressError
            If the kernel does not tell where its log is, or the log is not in the dump.

        Examples
        --------
        >>> with npdump.open(vmcore) as dump:
        ...     dump.log().records[0].text[:13]
        b'Linux version'
        """
        from npdump.kernel import dmesg

        return dmesg.read(self.kernel, partial)

    def page(self, pfn: int) -> PageExplanation:
        """Return what a page is, by which fields, and at which dump levels it is left out.

        A kind of page that does not stand the self-check is left out at no level, as in a dump.

        Parameters
        ----------
        pfn : int
            Page frame.

        Raises
        ------
        AddressError
            If memory ends before it.
        FactError, MemmapError
            If the struct pages cannot be found.

        Examples
        --------
        >>> with npdump.open(vmcore) as dump:
        ...     dump.page(0x100).is_memory
        True
        """
        if not 0 <= pfn < self.source.max_mapnr:
            raise AddressError(f"page frame {pfn:#x}: memory ends at page frame {self.source.max_mapnr:#x}")
        p2m = self.kernel.p2m
        if p2m is None:
            return self._explainer.explain(pfn)
        from npdump.pages.explain_xen import explain_frame  # few dumps are of Xen

        return explain_frame(self._explainer.explain, lambda: self.hypervisor, p2m, pfn, self.observer)

    @cached_property
    def _explainer(self) -> Explainer:
        from npdump.pages.explain import Explainer

        kernel = self._verdict.kernel or self.kernel
        types = self.external.types if self.external else None
        return Explainer(self.frames, kernel, self.observer, verdict=self._verdict, types=types)

    @cached_property
    def _verdict(self) -> Verdict:
        """What the self-check says of all kinds of pages; it is announced once."""
        verdict = check(self.kernel, self.frames, MAX_DUMP_LEVEL)
        announce(verdict, self.observer, strict=False)
        return verdict

    @cached_property
    def pages(self) -> MemoryMap:
        """The struct pages as a table; called with page frames, what those pages hold.

        Kinds of pages that do not stand the self-check count as kept, as in a dump.

        Examples
        --------
        >>> with npdump.open(vmcore) as dump:
        ...     int(dump.pages.levels().kept[31]), dump.pages([0x100]).shape
        (18556, (1, 4096))
        """
        from npdump.answers.memory_map import MemoryMap

        return MemoryMap(self.frames, self._trusted_kernel, self.observer, find_types=self._types)

    def map_widget(self) -> Any:
        """Return the map of memory as a widget: pan, zoom, and an explanation of the page under the pointer.

        For JupyterLab, Jupyter Notebook 7 and VS Code. The dump must stay open while it is used.

        Returns
        -------
        anywidget.AnyWidget

        Raises
        ------
        MissingDependency
            If anywidget is not installed.
        FactError, AddressError, MemmapError
            If the pages cannot be told apart.
        """
        from npdump.extras.widget import map_widget

        title = f"Physical memory of Linux {self.kernel.facts.release}"
        return map_widget(self.pages.pyramid(), lambda pfn: self.page(pfn)._repr_html_(), title)

    def pages_if_known(self) -> MemoryMap | None:
        """Return `pages`, None if the dump does not tell where its struct pages are, or is of a Xen host.

        The page frames of a Xen host are the machine's, and its struct pages are of dom0's.
        """
        try:
            self.pages.max_mapnr  # noqa: B018  # the memory map is looked for
            if self.kernel.p2m is not None:
                return None
        except (FactError, AddressError, MemmapError):
            return None
        return self.pages

    def _trusted_kernel(self) -> tuple[Kernel, int]:
        """Return the kernel with the facts that are to be believed, and what of all dump levels is."""
        verdict = self._verdict
        if verdict.kernel is None:
            raise FactError(f"{self.path}: its struct pages make no sense: nothing can be told of its pages")
        return verdict.kernel, verdict.level

    def _types(self) -> Types | None:
        """Return the kernel's C types by the best source that there is."""
        if self.external is not None and self.external.types is not None:
            return self.external.types
        try:
            own = embedded_types(self.kernel)
        except (FactError, AddressError) as error:
            self.observer.debug(f"{error}: the kernel's own types are not known")
            return None
        return own[1] if own is not None else None

    def drgn_program(self, *vmlinux: str | os.PathLike[str]) -> Any:
        """Return a drgn program that reads this dump, whatever its form.

        Parameters
        ----------
        *vmlinux : str or path-like
            Files with debugging information: the kernel's, and those of its modules. By default that which the dump
            was opened with.

        Returns
        -------
        drgn.Program

        Raises
        ------
        MissingDependency
            If drgn is not installed.
        FactError
            If drgn does not know the machine, or the dump has no VMCOREINFO.
        """
        from npdump.extras.drgn_program import drgn_program

        paths = [os.fspath(path) for path in vmlinux] or ([self.vmlinux] if self.vmlinux else [])
        return drgn_program(self.source, self.kernel, paths)

    def scan(
        self,
        level: int,
        *,
        strict: bool = False,
        drop_guests: bool = False,
        drop_memmap: bool = False,
        observer: Observer | None = None,
    ) -> ScanResult:
        """Return what each page is at a dump level.

        Parameters
        ----------
        level : int
            0 to 31; its bit 0, pages filled with zeros, is not looked at.
        strict : bool
            Make doubt an error; otherwise the pages in doubt are kept.
        drop_guests : bool
            Leave out pages of a Xen host that are neither Xen's nor dom0's.
        drop_memmap : bool
            Leave out the struct pages of pages that are left out.
        observer : Observer, optional
            By default that of the dump.

        Raises
        ------
        UsageError
            If there is no such level, or no Xen.
        FactError, AddressError, MemmapError
            If the pages cannot be told apart, or doubt is to be an error.

        Examples
        --------
        >>> with npdump.open(vmcore) as dump:
        ...     result = dump.scan(31)
        >>> result.counts["FREE"] > 0, result.kept.dtype, len(result.kept) == result.max_mapnr
        (True, dtype('bool'), True)
        """
        from npdump.pages.result import ScanResult

        check_levels([level])
        recorder = Recorder(observer or self.observer)
        asked = level & ~self.source.history.level
        required = (asked > 1 and not self.source.history.n_lost) or drop_memmap
        kernel = self.find_kernel(required=required, observer=recorder)
        hypervisor = self._xen_host() if drop_guests else None
        options = ScanOptions(
            strict=strict, work_dir=self.reading.work_dir, hypervisor=hypervisor, drops_memmap=drop_memmap
        )
        scan, verdict = pipeline.open_checked_scan(self.source, kernel, asked, options, recorder)
        return ScanResult.of(scan, self.source.page_size, level, verdict.level, tuple(recorder.warnings))

    def memory_usage(self, *, without: Iterable[tuple[int, int]] = (), observer: Observer | None = None) -> MemoryUsage:
        """Count the pages by what they are used for.

        Parameters
        ----------
        without : iterable of tuple of two int
            Physical addresses ``[start, stop)`` of memory that does not count.
        observer : Observer, optional
            By default that of the dump.

        Raises
        ------
        FactError, AddressError, MemmapError
            If the pages cannot be told apart.

        Examples
        --------
        >>> with npdump.open(vmcore) as dump:
        ...     dump.memory_usage().n_user > 0
        True
        """
        from npdump.answers import usage

        allocate = in_file(self.reading.work_dir) if self.reading.work_dir else in_memory
        heard_by = observer or self.observer
        return usage.memory_usage(self.frames, self.kernel, heard_by, without=without, allocate=allocate)


def open(
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
) -> Dump:
    """Open a dump of any form that the command takes.

    Parameters
    ----------
    path : str or path-like
        A vmcore, a dump that was filtered before, one that is compressed as a whole, a device, a pipe, or ``-`` for
        the standard input.
    *more : str or path-like
        The other parts of a split dump, in any order.
    vmlinux : str or path-like, optional
        The kernel with its debug information; says what the dump does not tell.
    vmcoreinfo : str or path-like, optional
        A text file that ``npdump -g`` made of it; at most one of the two is given.
    override : bool
        Whether what ``vmcoreinfo`` says wins where the dump says something else.
    vmcoreinfo_at : int, optional
        Which of the VMCOREINFO texts in the dump is used: its number from 1 on, or its physical address. By default it
        is the one that leads to a kernel.
    use_mmap : bool
        False reads everything with pread(2).
    work_dir : str or path-like, optional
        Directory for temporary files.
    machine : str, optional
        The machine as ``uname -m`` prints it, whatever the dump says.
    identity : str or path-like, optional
        File with the private key of age or SSH for a dump that is encrypted.
    max_unpacked_nbytes : int, optional
        How many bytes a file that is compressed as a whole may unpack to.
    xen : XenFiles, optional
        What the dump of a Xen host doesn't tell of its hypervisor.
    observer : Observer
        Hears warnings and progress; by default nobody does.

    Returns
    -------
    Dump
        To be closed, by ``with`` or `Dump.close`.

    Raises
    ------
    UsageError
        If ``vmlinux`` and ``vmcoreinfo`` are both given. Files are not opened before something is asked of the dump,
        and what is wrong with them is raised then.

    Examples
    --------
    >>> with npdump.open(vmcore) as dump:
    ...     dump.info.release
    '6.1.0-56-cloud-amd64'
    """
    if vmlinux is not None and vmcoreinfo is not None:
        raise UsageError("vmlinux with vmcoreinfo: the kernel's facts come from one of them")
    return Dump(
        path,
        *more,
        vmlinux=vmlinux,
        vmcoreinfo=vmcoreinfo,
        override=override,
        vmcoreinfo_at=vmcoreinfo_at,
        use_mmap=use_mmap,
        work_dir=work_dir,
        machine=machine,
        max_unpacked_nbytes=max_unpacked_nbytes,
        identity=identity,
        xen=xen,
        observer=observer,
    )
