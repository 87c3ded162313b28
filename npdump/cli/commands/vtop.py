# SPDX-License-Identifier: GPL-2.0-or-later
"""``--vtop``: from a kernel virtual address to the physical one."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from npdump.cli.inputs import open_dump

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["run"]


def run(options: Options, report: Reporter) -> None:
    """Print the translation in makedumpfile's layout."""
    assert options.vtop is not None
    with open_dump(options, report) as dump:
        found = dump.translate(options.vtop)
    if options.json:
        answer = asdict(found) | {"vaddr": hex(found.vaddr), "paddr": hex(found.paddr)}
        report.answer(json.dumps(answer, indent=1))
        return
    report.answer(
        f"\nTranslating virtual address {found.vaddr:x} to physical address.\n"
        f"VIRTUAL           PHYSICAL\n{found.vaddr:16x}  {found.paddr:x}\n"
    )
    if not found.is_dumped:
        report.warn(f"the page at {found.paddr:#x} isn't in {dump.path}")
