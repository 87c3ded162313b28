# SPDX-License-Identifier: GPL-2.0-or-later
"""What a command line asks for, as values; :mod:`npdump.cli.parsing` makes them of one."""

# No postponed annotations: a NamedTuple would compile each of them, which takes longer than all the rest here.
from typing import NamedTuple

MESSAGE_PROGRESS = 1
MESSAGE_COMMON = 2
MESSAGE_ERROR = 4
MESSAGE_DEBUG = 8
MESSAGE_REPORT = 16
DEFAULT_MESSAGE_LEVEL = MESSAGE_PROGRESS | MESSAGE_COMMON | MESSAGE_ERROR

FILTER = "filter"
"""The command that no word and no option names."""


MAKE_DUMPS = (FILTER, "redact")
"""Commands that write a dump: they take the options that say how."""


class Options(NamedTuple):
    """A checked command line.

    ``message_level`` is what is in force: the bits that ``-D`` and ``--show-stats`` add are in it.
    """

    command: str = FILTER
    vmcores: tuple[str, ...] = ()
    dumpfiles: tuple[str, ...] = ()
    pages: tuple[str, ...] = ()
    shells: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    vtop: int | None = None
    partial_dmesg: bool = False
    vmcoreinfo: str | None = None
    vmcoreinfo_at: int | None = None
    override: bool = False
    vmlinux: str | None = None
    new_vmcoreinfo: str | None = None
    config: str | None = None
    extensions: tuple[str, ...] = ()
    erase_log: bool = False
    encrypt_to: tuple[str, ...] = ()
    identity: str | None = None
    strict: bool = False
    codec: str = "raw"
    dump_level: int = 0
    retry_levels: tuple[int, ...] = ()
    limit_nbytes: int | None = None
    flatten: bool = False
    lz4: bool = False
    split: bool = False
    splitblock_kib: int | None = None
    reassemble: bool = False
    format: str = "kdump"
    force: bool = False
    block_order: int = 4
    debug: bool = False
    message_level: int = DEFAULT_MESSAGE_LEVEL
    check_params: bool = False
    dry_run: bool = False
    show_stats: bool = False
    json: bool = False
    num_threads: int | None = None
    cyclic_buffer_kib: int | None = None
    non_mmap: bool = False
    work_dir: str | None = None
    sync: bool | None = None
    machine: str | None = None
    max_unpacked_nbytes: int | None = None
    max_lost: int | None = None
    zlib_engine: str | None = None
    codec_level: int | None = None
    verify: bool = True
    share: bool = True
    vital_first: bool | None = None
    deadline_seconds: int | None = None
    save_dmesg: str | None = None
    drop_guests: bool = False
    drop_memmap: bool = False
    xen_syms: str | None = None
    xen_vmcoreinfo: str | None = None
    xen_phys_start: int | None = None
    verbose: bool = False
    by: str | None = None
    csv: bool = False
    layout: str | None = None
    compares_stored: bool = False
    allowed: tuple[tuple[str, int], ...] | None = None
    junit: str | None = None
    asked: tuple[str, ...] | None = None
    output_folder: str | None = None
    catalogue: str | None = None
    jobs: int | None = None
    scheduler: str | None = None
    time_limit_seconds: int | None = None
    memory_limit_nbytes: int | None = None
    again: bool = False
    show_help: bool = False
    show_version: bool = False

    @property
    def is_answered_on_stdout(self) -> bool:
        """Whether the standard output carries the answer to a question, and nothing else."""
        return self.json or (self.command not in MAKE_DUMPS and not self.dumpfiles and self.new_vmcoreinfo is None)
