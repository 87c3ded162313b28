# SPDX-License-Identifier: GPL-2.0-or-later
"""``--vtop``: from a kernel virtual address to the physical one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from npdump.arrays import contains
from npdump.cli.commands.crashed import open_crashed
from npdump.errors import AddressError

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["run"]


def run(options: Options, report: Reporter) -> None:
    """Print the translation in makedumpfile's layout."""
    assert options.vtop is not None
    with open_crashed(options, report) as crashed:
        kernel = crashed.kernel
        word_mask = (1 << crashed.arch.bits) - 1
        if options.vtop > word_mask:
            raise AddressError(f"{options.vtop:#x} has more than the {crashed.arch.bits} bits of {crashed.arch.name}")
        (extent,) = kernel.memory.extents(options.vtop, 1)
        if extent.paddr is None:
            raise AddressError(f"kernel address {options.vtop:#x} isn't mapped in the dump's page tables")
        pfn = extent.paddr // crashed.source.page_size
        is_dumped = contains(crashed.source.data_runs, pfn)
    if options.json:
        found = {"vaddr": options.vtop, "paddr": extent.paddr, "pfn": pfn, "is_dumped": is_dumped}
        report.answer(json.dumps(found, indent=1))
        return
    report.answer(
        f"\nTranslating virtual address {options.vtop:x} to physical address.\n"
        f"VIRTUAL           PHYSICAL\n{options.vtop:16x}  {extent.paddr:x}\n"
    )
    if not is_dumped:
        report.warning(f"the page at {extent.paddr:#x} isn't in {options.vmcore}")
