# SPDX-License-Identifier: GPL-2.0-or-later
"""One opened dump: what can be asked of it, and what can be made of it.

`open` takes any form that the command takes. Nothing is read before it is asked for: the source, the machine and the
crashed kernel are found once, then.

The file is long for its docstrings; a method asks a function of values that is somewhere below.

The examples open ``vmcore``, the dump of a machine with 256 MiB of memory.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from npdump import pipeline
from npdump.arrays import count
from npdump.bitmap import in_file, in_memory
from npdump.errors import AddressError, ConfigError, FactError, MemmapError, UsageError
from npdump.kernel.probe import embedded_types
from npdump.observer import SILENT, Observer, Recorder
from npdump.opened import Opened
from npdump.pages.policy import MAX_DUMP_LEVEL
from npdump.pages.selfcheck import announce, check
from npdump.pipeline import DEFAULT_SCAN, ScanOptions
from npdump.sinks.file import open_files
from npdump.writers._split import Split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from npdump.answers.estimate import Estimate
    from npdump.answers.info import DumpInfo
    from npdump.answers.memory_map import MemoryMap
    from npdump.answers.usage import MemoryUsage
    from npdump.erase import Outcome
    from npdump.erase.resolve import Found
    from npdump.extensions import Rules
    from npdump.kernel import dmesg
    from npdump.kernel.facts.types import Types
    from npdump.kernel.kernel import Kernel
    from npdump.kernel.xen import XenFiles
    from npdump.kernel.xen.hypervisor import Hypervisor
    from npdump.pages.explain import Explainer, PageExplanation
    from npdump.pages.result import ScanResult
    from npdump.pages.selfcheck import Verdict
    from npdump.sinks import Sink
    from npdump.sources._erased import ErasePlan
    from npdump.summary import Summary

__all__ = ["Dump", "open"]


class Dump(Opened):
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
        """Return `pages`, None if the dump does not tell where its struct pages are."""
        try:
            self.pages.max_mapnr  # noqa: B018  # the memory map is looked for
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

        _check_levels([level])
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

    def estimate(
        self,
        level: int = 0,
        *,
        codec: str = "raw",
        engine: str | None = None,
        codec_level: int | None = None,
        share: bool = True,
        observer: Observer | None = None,
    ) -> Estimate:
        """Estimate how large a kdump-compressed dump would become, reading at most 3 % of memory.

        Parameters
        ----------
        level, codec, codec_level
            See `write`.
        engine : str, optional
            One of the codec's engines, by default the first that is there.
        share : bool
            Whether pages that equal an earlier one are stored once.
        observer : Observer, optional
            By default that of the dump.

        Raises
        ------
        UsageError
            If a level or codec does not exist.
        FactError, AddressError, MemmapError
            If the pages cannot be told apart.

        Examples
        --------
        >>> with npdump.open(vmcore) as dump:
        ...     found = dump.estimate(31, codec="zlib")
        ...     written = dump.write(tmp_path / "small", level=31, codec="zlib").written_nbytes
        >>> abs(found.nbytes - written) < written / 5
        True
        """
        from npdump.answers.estimate import estimate

        _check_levels([level])
        recorder = Recorder(observer or self.observer)
        how = pipeline.write_options(
            self.source, codec=codec, engine=engine, codec_level=codec_level, share=share, observer=recorder
        )
        # Below level 2 struct pages tell broken and offline pages alone, which a sample doesn't need.
        asked = level & ~self.source.history.level
        kernel = self.find_kernel(required=True, observer=recorder) if asked > 1 else None
        scan, _ = pipeline.open_checked_scan(self.source, kernel, asked, DEFAULT_SCAN, recorder)
        struct_nbytes = (kernel.facts.get("SIZE(page)") or 0) if kernel else 0
        return estimate(self.source, scan, level | self.source.history.level, how, struct_nbytes)

    def write(
        self,
        path: str | os.PathLike[str],
        *more: str | os.PathLike[str],
        level: int | Sequence[int] = 0,
        codec: str = "raw",
        format: str = "kdump",
        force: bool = False,
        limit_nbytes: int | None = None,
        sync: bool = False,
        strict: bool = False,
        codec_level: int | None = None,
        n_threads: int | None = None,
        drop_guests: bool = False,
        drop_memmap: bool = False,
        config: str | os.PathLike[str] | None = None,
        extensions: Sequence[str | os.PathLike[str]] = (),
        observer: Observer | None = None,
    ) -> Summary:
        """Make a dump file of the pages that stay.

        Parameters
        ----------
        path : str or path-like
        *more : str or path-like
            Divide the dump among all these files.
        level : int or sequence of int
            Dump level, 0 to 31; of several, the next one is tried when the output does not fit.
        codec : {"raw", "zlib", "lzo", "snappy", "zstd"}
            Page compression; raw stores pages as they are.
        format : {"kdump", "elf"}
        force : bool
            Overwrite what is there.
        limit_nbytes : int, optional
            Let a file grow no larger than this.
        sync : bool
            Wait until the disk has the file, so that not even a power cut leaves one that looks whole and is not.
        strict : bool
            Make doubt an error; otherwise the pages in doubt are kept.
        codec_level : int, optional
            How hard to compress; see ``--codec-level`` of the command.
        n_threads : int, optional
            Threads that read and compress; by default as many as pay.
        drop_guests : bool
            Leave out pages of a Xen host that are neither Xen's nor dom0's.
        drop_memmap : bool
            Leave out the struct pages of pages that are left out.
        config : str or path-like, optional
            A file that says what is to be erased, see `erasing`.
        extensions : sequence of str or path-like
            Python files with rules about pages, or names of installed ones; see `npdump.extensions`.
        observer : Observer, optional
            By default that of the dump.

        Returns
        -------
        Summary

        Raises
        ------
        UsageError
            If a level, codec or format does not exist.
        NpdumpError
            If the input is bad, or the output cannot be written. An output that holds any pages by then is left,
            marked as incomplete; else it is removed.
        KeyboardInterrupt
            If there is one, as when a notebook's cell is stopped: no output is left then.

        Examples
        --------
        >>> with npdump.open(vmcore) as dump:
        ...     summary = dump.write(tmp_path / "small", level=31, codec="zlib")
        >>> summary.n_remaining < summary.n_ram, (tmp_path / "small").stat().st_size > 0
        (True, True)
        """
        paths = [os.fspath(part) for part in (path, *more)]
        return self.write_to(
            lambda: open_files(paths, force, self.storages, limit_nbytes, sync),
            level=level,
            codec=codec,
            format=format,
            codec_level=codec_level,
            n_threads=n_threads,
            split=Split(len(paths)) if more else None,
            scanning=ScanOptions(strict=strict, work_dir=self.reading.work_dir, drops_memmap=drop_memmap),
            drop_guests=drop_guests,
            config=None if config is None else os.fspath(config),
            extensions=[os.fspath(extension) for extension in extensions],
            keep_interrupted=False,
            observer=observer,
        )

    def erasing(self, config: str | os.PathLike[str]) -> Outcome:
        """Return what a configuration would erase, as in makedumpfile.conf(5); nothing is written.

        Parameters
        ----------
        config : str or path-like

        Raises
        ------
        ConfigError
            If the file can't be read, or a line of it is wrong.
        FactError, AddressError
            See `kernel`.

        Examples
        --------
        >>> config = tmp_path / "erase.conf"
        >>> _ = config.write_text("erase init_uts_ns size 400")
        >>> with npdump.open(vmcore) as dump:
        ...     [(found.text, found.nbytes) for found in dump.erasing(config).found]
        [('erase init_uts_ns size 400', 400)]
        """
        from npdump import erase

        path = os.fspath(config)
        return erase.carry_out(path, erase.read_config(path), self.names)

    def write_to(
        self,
        open_sinks: Callable[[], Sequence[Sink]],
        *,
        level: int | Sequence[int] = 0,
        split: Split | None = None,
        scanning: ScanOptions = DEFAULT_SCAN,
        drop_guests: bool = False,
        config: str | None = None,
        extensions: Sequence[str] = (),
        observer: Observer | None = None,
        **options: Any,
    ) -> Summary:
        """Make a dump as `write` does, into outputs of any kind.

        Parameters
        ----------
        open_sinks : callable
            Makes an output for each part; called when all that can be wrong with the input was looked at.
        level, observer
            See `write`.
        split : Split or None
            Divide the dump among several outputs.
        scanning : ScanOptions
        drop_guests : bool
            Leave out pages of a Xen host that are neither Xen's nor dom0's.
        config : str or None
            A file that says what is to be erased.
        extensions : sequence of str
            Python files with rules about pages, or names of installed ones; see `npdump.extensions`.
        **options
            See `npdump.pipeline.write_options`.

        Returns
        -------
        Summary
        """
        levels = [level] if isinstance(level, int) else list(level)
        _check_levels(levels)
        heard_by = observer or self.observer
        if drop_guests:
            scanning = replace(scanning, hypervisor=self._xen_host())
        how = pipeline.write_options(self.source, observer=heard_by, **options)
        # What tells about the kernel may be lost with a dump's end: the pages that are there are kept then.
        required = (max(levels) & ~self.source.history.level) > 1 and not (
            self.source.history.n_lost and not scanning.strict
        )
        required |= scanning.drops_memmap
        kernel = None if how.copy_compressed else self.find_kernel(required=required, observer=heard_by)
        rules = self._rules(extensions, heard_by, scanning.strict)
        erased = [] if rules is None else rules.erased()
        if config is not None:
            erased = [*self._erased(config, heard_by, scanning.strict), *erased]
        return pipeline.filter_dump(
            self.source,
            self.arch,
            kernel,
            levels,
            how,
            open_sinks,
            scanning=scanning,
            split=split,
            erasing=self._erase_plan(erased, heard_by) if erased else None,
            decider=rules.decider if rules is not None and rules.decides else None,
            observer=heard_by,
        )

    def _erased(self, config: str, observer: Observer, strict: bool) -> list[Found]:
        """Return what a configuration erases; what of it finds nothing is said, or is an error."""
        outcome = self.erasing(config)
        for module in outcome.absent:
            observer.message(f"{config}: module {module} is not loaded: its section is passed over.")
        for text in outcome.problem_texts():
            if strict:
                raise ConfigError(f"{text}: nothing is written, as --strict asks")
            observer.warn(f"{text}: it erases nothing")
        return outcome.found

    @staticmethod
    def _erase_plan(found: list[Found], observer: Observer) -> ErasePlan:
        from npdump import erase

        plan = erase.make_plan(found)
        observer.message(f"{count(plan.filled) + count(plan.zeroed)} bytes are erased.")
        return plan

    def _rules(self, extensions: Sequence[str], observer: Observer, strict: bool) -> Rules | None:
        """Return what extensions say of this dump, None if there are none, or the dump does not tell of its kernel."""
        if not extensions:
            return None
        from npdump.extensions import Crashed, Rules, load

        loaded = []
        for name in extensions:
            try:
                loaded.append(load(name))
            except ConfigError as error:
                if strict:
                    raise
                observer.warn(f"{error}: the extension is skipped")
        try:
            return Rules(loaded, Crashed(self.names, observer), observer, strict)
        except (FactError, AddressError) as error:
            if strict:
                raise
            observer.warn(f"{error}: extensions are skipped")
            return None

    def _xen_host(self) -> Hypervisor:
        if self.hypervisor is None:
            raise UsageError(f"{self.path}: is not of a Xen host: it has no user domains to leave out (-X)")
        return self.hypervisor


def _check_levels(levels: Sequence[int]) -> None:
    if not levels or not all(0 <= level <= MAX_DUMP_LEVEL for level in levels):
        raise UsageError(f"dump level {', '.join(map(str, levels)) or 'none'}: isn't from 0 to {MAX_DUMP_LEVEL}")


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
        xen=xen,
        observer=observer,
    )
