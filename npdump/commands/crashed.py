"""The dump that a command is about, opened and understood as far as the command needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

from npdump.arch import Arch, by_machine
from npdump.memmap import Kernel
from npdump.options import Options
from npdump.probe import find_kernel
from npdump.report import Reporter
from npdump.sources import Source, open_source
from npdump.storage import Storage

__all__ = ["Crashed", "need_kernel", "open_crashed"]

_ANY_KIND_OF_PAGE = 31


class Crashed(NamedTuple):
    """A dump, its machine, and its kernel: None if nothing is known of it."""

    source: Source
    arch: Arch
    kernel: Kernel | None


@contextmanager
def open_crashed(options: Options, report: Reporter, is_kernel_needed: bool = True) -> Iterator[Crashed]:
    """Open the vmcore that the command line names.

    Raises
    ------
    NpdumpError
        If it can't be read, or its kernel is needed and the dump doesn't tell what it is.
    """
    assert options.vmcore is not None
    with closing(Storage(options.vmcore, use_mmap=not options.non_mmap)) as storage:
        source = open_source(storage)
        arch = by_machine(source.machine, source.bits)
        kernel = find_kernel(source, arch, _ANY_KIND_OF_PAGE if is_kernel_needed else 0, report.warning)
        yield Crashed(source, arch, kernel)


def need_kernel(crashed: Crashed) -> Kernel:
    """Return the kernel of a dump that was opened with ``is_kernel_needed``."""
    assert crashed.kernel is not None
    return crashed.kernel
