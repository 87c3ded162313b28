# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be made of an opened dump: a dump file, or an estimate of it."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from npdump import pipeline
from npdump.arrays import count
from npdump.errors import AddressError, ConfigError, FactError, UsageError
from npdump.observer import Observer, Recorder
from npdump.opened import Opened
from npdump.pages.policy import MAX_DUMP_LEVEL
from npdump.pipeline import DEFAULT_SCAN, ScanOptions
from npdump.sinks.file import open_files
from npdump.writers._split import Split

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from npdump.answers.estimate import Estimate
    from npdump.erase import Outcome
    from npdump.erase.resolve import Found
    from npdump.extensions import Rules
    from npdump.kernel.xen.hypervisor import Hypervisor
    from npdump.redact import Redaction
    from npdump.sinks import Sink
    from npdump.sources._erased import ErasePlan
    from npdump.summary import Summary

__all__ = ["Writable", "check_levels"]


class Writable(Opened):
    """An opened dump that can be written again; see `npdump.dump.open` for the parameters."""

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

        check_levels([level])
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
        redaction: Redaction | None = None,
        encrypt_to: Sequence[str] = (),
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
        redaction : Redaction, optional
            What `redaction` found, to be erased; level 31 goes with it.
        encrypt_to : sequence of str
            Public keys of age or SSH, or files of such: the dump is encrypted for them; see ``--encrypt-to``.
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
        recipients: Sequence[Any] = ()
        if encrypt_to:
            from npdump.storage.age import read_recipients  # seldom wanted

            recipients = read_recipients(encrypt_to)

        def open_sinks() -> Sequence[Sink]:
            outputs = open_files(paths, force, self.storages, limit_nbytes, sync)
            if not recipients:
                return outputs
            from npdump.sinks.encrypted import encrypted  # as above

            return encrypted(outputs, recipients)

        return self.write_to(
            open_sinks,
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
            redaction=redaction,
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

    def redaction(
        self, *, strict: bool = False, optional: Sequence[str] = (), observer: Observer | None = None
    ) -> Redaction:
        """Find what nobody wants to give away with a dump, as ``npdump redact`` erases it; nothing is written.

        Parameters
        ----------
        strict : bool
            Make it an error if a rule can not be carried out; otherwise it is said.
        optional : sequence of str
            Rules that are carried out on request alone: ``"log"``.
        observer : Observer, optional
            By default that of the dump.

        Raises
        ------
        ConfigError
            If a rule can not be carried out and ``strict`` is true.
        UsageError
            If the dump is of a Xen host.
        FactError, AddressError
            See `kernel`.

        Examples
        --------
        >>> with npdump.open(vmcore) as dump:
        ...     found = dump.redaction()
        ...     summary = dump.write(tmp_path / "redacted", level=31, redaction=found)
        >>> [one.name for one in found.applied][:3]
        ['crypto', 'environments', 'free_objects']
        """
        from npdump import redact

        if self.kernel.p2m is not None:
            raise UsageError(f"{self.path}: is of a Xen host: what of it is to be erased can't be found")
        return redact.carry_out(
            self.source, self.names, observer or self.observer, strict=strict, optional=tuple(optional)
        )

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
        redaction: Redaction | None = None,
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
        redaction : Redaction or None
            What else is to be erased.
        **options
            See `npdump.pipeline.write_options`.

        Returns
        -------
        Summary
        """
        levels = [level] if isinstance(level, int) else list(level)
        check_levels(levels)
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
            erasing=self._erase_plan(erased, redaction, heard_by) if erased or redaction is not None else None,
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
    def _erase_plan(found: list[Found], redaction: Redaction | None, observer: Observer) -> ErasePlan:
        from npdump import erase

        plan = erase.make_plan(found) if redaction is None else redaction.plan(found)
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


def check_levels(levels: Sequence[int]) -> None:
    """Raise for a dump level that does not exist.

    Raises
    ------
    UsageError
    """
    if not levels or not all(0 <= level <= MAX_DUMP_LEVEL for level in levels):
        raise UsageError(f"dump level {', '.join(map(str, levels)) or 'none'}: isn't from 0 to {MAX_DUMP_LEVEL}")
