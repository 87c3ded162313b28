# SPDX-License-Identifier: GPL-2.0-or-later
"""npdump's scan in this process: a dump is opened once and scanned at many levels, with nothing written.

This is the one place of the tests that puts sources, kernel and scan together as `npdump.pipeline` does.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npdump.arch import by_machine
from npdump.kernel.probe import find_kernel
from npdump.observer import Recorder
from npdump.pages.selfcheck import checked_scan
from npdump.sources import open_source
from npdump.storage.file import FileStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from npdump.bitmap import Bitmap

    BoolArray = npt.NDArray[np.bool_]


class Scanned(NamedTuple):
    """What a scan found; both bool by page frame number."""

    ram: BoolArray
    kept: BoolArray


class Scanner:
    """One opened dump."""

    def __init__(self, source: Any, highest_level: int) -> None:
        self.listener = Recorder()
        self._source = source
        arch = by_machine(source.header)
        self._kernel = find_kernel(source, arch, required=highest_level > 1, observer=self.listener)

    @property
    def said(self) -> list[str]:
        """All warnings so far."""
        return self.listener.warnings

    def scan(self, level: int) -> Scanned:
        """Scan at a dump level, with the self-check; zero pages are not looked at."""
        scan = checked_scan(self._source, self._kernel, level, self.listener).scan
        (window,) = scan.windows()
        return Scanned(*(_unpacked(bitmap, scan.max_mapnr) for bitmap in (window.ram, window.kept)))


def _unpacked(bitmap: Bitmap, n: int) -> BoolArray:
    return np.unpackbits(bitmap.packed, bitorder="little")[:n].astype(bool)


@contextmanager
def opened(path: Path, highest_level: int = 31, alter: Callable[[str], str] | None = None) -> Iterator[Scanner]:
    """Open a dump, with another VMCOREINFO if `alter` makes one of its own.

    Raises
    ------
    NpdumpError
        If the dump is refused.
    """
    with closing(FileStorage(str(path))) as storage:
        source = open_source(storage)
        if alter is not None:
            text = alter(source.notes.vmcoreinfo.decode()).encode()
            source = replace(source, notes=source.notes._replace(vmcoreinfo=text))
        yield Scanner(source, highest_level)
