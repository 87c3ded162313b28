# SPDX-License-Identifier: GPL-2.0-or-later
"""npdump's scan in this process: a dump is opened once and scanned at many levels, with nothing written."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import npdump
from npdump.observer import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from npdump.pages.result import ScanResult


class AlteredDump(npdump.Dump):
    """A dump that is read as if its VMCOREINFO were another one."""

    alter: Callable[[str], str]

    @cached_property
    def source(self) -> Any:
        """The image with the other text; images themselves don't change."""
        image: Any = super().source
        text = self.alter(image.notes.vmcoreinfo.decode()).encode()
        return replace(image, notes=image.notes._replace(vmcoreinfo=text))


class Scanner:
    """One opened dump, and what was said about it: `said` has all warnings so far."""

    def __init__(self, dump: npdump.Dump, recorder: Recorder) -> None:
        self.dump, self.said = dump, recorder.warnings

    def scan(self, level: int) -> ScanResult:
        """Scan at a dump level, with the self-check; zero pages are not looked at."""
        return self.dump.scan(level)


@contextmanager
def opened(path: Path, alter: Callable[[str], str] | None = None) -> Iterator[Scanner]:
    """Open a dump, with another VMCOREINFO if `alter` makes one of its own."""
    recorder = Recorder()
    dump = (AlteredDump if alter else npdump.Dump)(path, observer=recorder)
    if isinstance(dump, AlteredDump) and alter:
        dump.alter = alter
    with dump:
        yield Scanner(dump, recorder)
