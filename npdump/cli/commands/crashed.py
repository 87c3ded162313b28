# SPDX-License-Identifier: GPL-2.0-or-later
"""The dump that a command is about, opened and understood as far as the command needs."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from npdump.arch import Arch, by_machine
from npdump.cli.inputs import load_external, open_storages
from npdump.kernel.probe import find_kernel
from npdump.sources import Source, open_source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.cli.options import Options
    from npdump.cli.report import Reporter
    from npdump.kernel.kernel import Kernel
    from npdump.storage.file import Storage

__all__ = ["Crashed", "open_crashed"]

_ANY_KIND_OF_PAGE = 31


class Crashed(NamedTuple):
    """A dump, its machine, its kernel, and its files."""

    source: Source
    arch: Arch
    kernel: Kernel
    storages: list[Storage]


@contextmanager
def open_crashed(options: Options, report: Reporter) -> Iterator[Crashed]:
    """Open the vmcore that the command line names.

    Raises
    ------
    NpdumpError
        If it can't be read, or its kernel is needed and the dump doesn't tell what it is.
    """
    with ExitStack() as stack:
        storages = open_storages(options, report, stack)
        source = open_source(*storages)
        arch = by_machine(source.machine, source.bits)
        kernel = find_kernel(source, arch, _ANY_KIND_OF_PAGE, report.warning, load_external(options))
        assert kernel is not None  # at that level it's an error
        yield Crashed(source, arch, kernel, storages)
