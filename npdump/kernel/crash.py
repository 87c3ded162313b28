# SPDX-License-Identifier: GPL-2.0-or-later
"""When and why a kernel crashed, and what it was doing, by its log and its counters."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from npdump.errors import AddressError, FactError
from npdump.kernel import dmesg
from npdump.kernel.facts import kallsyms
from npdump.kernel.probe import utsname

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npdump.kernel.kernel import Kernel
    from npdump.sources import History

__all__ = ["PANIC_STARTS", "of_header", "of_kernel"]

PANIC_STARTS = (
    b"Kernel panic - not syncing",
    b"BUG: ",
    b"kernel BUG at ",
    b"Unable to handle kernel ",
    b"Internal error: ",
    b"Oops: ",
    b"general protection fault",
    b"Kernel BUG",
    b"sysrq: Trigger a crash",
    b"sysrq: SysRq : Trigger a crash",
    b"SysRq : Trigger a crash",
)
_COMMAND_LINE_STARTS = (b"Kernel command line: ", b"Command line: ")
_TASK = re.compile(rb"CPU: (\d+) (?:UID: \d+ )?PID: (\d+) Comm: (.*?)(?: (?:Not tainted|Tainted:|Kdump:)|$)")
"""Who was running, in the header of an oops (Linux dump_stack_print_info(), v3.10; its UID since v6.12)."""

_MAX_UPTIME_NS = 1 << 61
"""Seventy years."""

_DMESG_IS_ENOUGH = 1 << 20
"""Characters of an old log that are looked at."""


def of_kernel(
    kernel: Kernel, stated: tuple[bytes, ...] | None, missing: list[str], pids: Sequence[int] = ()
) -> dict[str, Any]:
    """Return the entries of `npdump.answers.info.DumpInfo` that the kernel tells.

    Parameters
    ----------
    kernel : Kernel
    stated : tuple of six bytes, or None
        What the dump's headers say of it.
    missing : list of str
        Gets a line for what cannot be found out.
    pids : sequence of int
        Of the task that was running on each CPU, by the notes that the crashed kernel left.
    """
    names = utsname(kernel, kernel.arch, stated)
    _, node, release, version, *_ = (name.decode("utf-8", "replace") for name in names)
    seconds = kernel.facts.get("CRASHTIME")
    try:
        log = dmesg.read(kernel)
    except (FactError, AddressError) as error:
        missing.append(f"the kernel log: {error}")
        log = dmesg.Log("characters")
    missing += [f"of the kernel log, {doubt}" for doubt in log.doubts]
    lines = [record.text for record in log.records] or log.characters[-_DMESG_IS_ENOUGH:].split(b"\n")
    log_seconds = log.records[-1].nanoseconds / 1e9 if log.records else None
    symbols = _symbols(kernel)
    uptime, n_tasks = _counters(kernel, symbols)
    return {
        "release": kernel.facts.release or release or None,
        "version": version or None,
        "node": node or None,
        "build_id": kernel.facts.text("BUILD-ID"),
        "crash_time": _utc(seconds),
        "uptime_seconds": None if uptime is None else max(uptime, log_seconds or 0.0),
        "log_seconds": log_seconds,
        "command_line": _after(lines, _COMMAND_LINE_STARTS),
        "panic": _panic(lines),
        "panic_task": _panic_task(lines) or (_panic_task_by_notes(kernel, symbols, pids) if seconds else None),
        "n_tasks": n_tasks,
        "kaslr_offset": kernel.facts.get("KERNELOFFSET"),
    }


def of_header(history: History) -> dict[str, Any]:
    """Return what the headers of the file say of a kernel that nothing else is known of."""
    _, node, release, version, *_ = (name.decode("utf-8", "replace") for name in history.utsname or (b"",) * 6)
    return {
        "release": release or None,
        "version": version or None,
        "node": node or None,
        "crash_time": _utc(history.timestamp),
    }


def _utc(seconds: int | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds and 0 < seconds < 1 << 36 else None


def _symbols(kernel: Kernel) -> dict[str, int]:
    """Return the kernel's own table of symbols, empty if it has none that can be read."""
    if not kallsyms.is_there(kernel.facts):
        return {}
    try:
        return kallsyms.read(kernel.facts, kernel.memory.read, kernel.memory.word)
    except (FactError, AddressError):
        return {}


def _counters(kernel: Kernel, symbols: dict[str, int]) -> tuple[float | None, int | None]:
    """Return how many seconds the kernel ran, and how many threads there were.

    References
    ----------
    Linux kernel/time/tick-common.c, tick_next_period: nanoseconds since boot at which the next tick is due; an
    integer since v4.10, and before that a union of the same size.
    """
    memory = kernel.memory
    try:
        uptime, n_tasks = (
            int(np.frombuffer(memory.read(symbols[name], size), memory.dtype(f"u{size}"))[0])
            if name in symbols
            else None
            for name, size in (("tick_next_period", 8), ("nr_threads", 4))
        )
    except (FactError, AddressError):
        return None, None
    return (uptime / 1e9 if uptime and uptime < _MAX_UPTIME_NS else None), n_tasks


def _panic_task(lines: list[bytes]) -> str | None:
    """Return what the last header of an oops, or of the panic, says of the task that was running."""
    found = next((match for line in reversed(lines) if (match := _TASK.search(line))), None)
    if found is None:
        return None
    cpu, pid, name = (part.decode("utf-8", "replace") for part in found.groups())
    return f"{name}, PID {pid}, on CPU {cpu}"


def _panic_task_by_notes(kernel: Kernel, symbols: dict[str, int], pids: Sequence[int]) -> str | None:
    """Return what the notes of the CPUs, and the number of the one that panicked, say of the task.

    References
    ----------
    Linux kernel/crash_core.c crash_save_cpu(): a note for each CPU, with the PID of its task; kernel/panic.c
    ``panic_cpu`` (an atomic_t), the CPU on which panic() runs.
    """
    cpu = 0 if len(pids) == 1 else None
    if cpu is None and "panic_cpu" in symbols:
        try:
            cpu = kernel.memory.read_u32(symbols["panic_cpu"])
        except AddressError:
            return None
    return None if cpu is None or cpu >= len(pids) else f"PID {pids[cpu]}, on CPU {cpu}"


def _after(lines: list[bytes], starts: tuple[bytes, ...]) -> str | None:
    """Return what follows one of ``starts`` in the first line that has it."""
    for line in lines:
        for start in starts:
            if start in line:
                return line.partition(start)[2].decode("utf-8", "replace").strip()
    return None


def _panic(lines: list[bytes]) -> str | None:
    """Return the last panic message, or else the last line that tells of a fatal error."""
    for starts in (PANIC_STARTS[:1], PANIC_STARTS[1:]):
        for line in reversed(lines):
            at = min((line.find(start) for start in starts if start in line), default=-1)
            if at >= 0:
                return line[at:].partition(b"\n")[0].decode("utf-8", "replace").strip()
    return None
