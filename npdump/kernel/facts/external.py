# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts from a file beside the dump, which the user names, and whether they belong to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from npdump.errors import VersionMismatch
from npdump.facts import Facts

if TYPE_CHECKING:
    from npdump.kernel.facts.types import Types

__all__ = ["ExternalFacts", "merge"]

_RUN_TIME = frozenset(
    "KERNELOFFSET CRASHTIME PAGESIZE NUMBER(phys_base) NUMBER(pgtable_l5_enabled) NUMBER(sme_mask) NUMBER(VA_BITS) "
    "NUMBER(TCR_EL1_T1SZ) NUMBER(kimage_voffset) NUMBER(PHYS_OFFSET) NUMBER(phys_ram_base) "
    "NUMBER(va_kernel_pa_offset)".split()
)
"""Chosen at each boot: what another run of the kernel had is no contradiction."""

# VMCOREINFO gives the address of an array, and the value of a pointer to one (Linux VMCOREINFO_SYMBOL_ARRAY).
_ALIKE_IN_NAME = frozenset(("SYMBOL(mem_section)",))


class ExternalFacts(NamedTuple):
    """What a file tells.

    Attributes
    ----------
    path : str
    facts : Facts
        Symbols are as linked, unless the file states the addresses of this very run.
    build_id : str or None
    link_base : int or None
        Address that the kernel's text was linked at.
    types : Types or None
    overrides : bool
        Whether what the file tells wins over what the dump says.
    """

    path: str
    facts: Facts
    build_id: str | None
    link_base: int | None = None
    types: Types | None = None
    overrides: bool = False

    def check(self, release: str | None, build_id: str | None) -> None:
        """Compare with what the dump says of its kernel.

        Raises
        ------
        VersionMismatch
        """
        if build_id and self.build_id:
            if build_id != self.build_id:
                raise VersionMismatch(
                    f"{self.path}: is of another kernel than the dump: its build id is {self.build_id}, the dump's is "
                    f"{build_id}"
                )
        elif release and self.facts.release and release != self.facts.release:
            raise VersionMismatch(
                f"{self.path}: is of another kernel than the dump: its release is {self.facts.release}, the dump's is "
                f"{release}"
            )


def merge(facts: Facts, external: ExternalFacts) -> tuple[Facts, list[str]]:
    """Add what a file tells to what the dump says; where they contradict each other, the dump's value wins.

    If the file overrides the dump it is the other way round, and the dump need not say that it is of the same kernel.

    Returns
    -------
    facts : Facts
    conflicts : list of str
        What they contradict each other about.

    Raises
    ------
    VersionMismatch
        If the file is of another kernel.
    """
    offset = _kaslr_offset(facts, external.facts)
    if external.overrides:
        moved, _ = Facts({}, {}).completed_by(external.facts, offset)
        merged, conflicts = moved.completed_by(facts)
    else:
        external.check(facts.release, facts.text("BUILD-ID"))
        merged, conflicts = facts.completed_by(external.facts, offset)
    quiet = _RUN_TIME | _ALIKE_IN_NAME
    return merged, [text for key, text in conflicts if key not in quiet]


def _kaslr_offset(facts: Facts, linked_facts: Facts) -> int:
    """Return what is to be added to symbols as they were linked."""
    here, linked = facts.get("SYMBOL(_stext)"), linked_facts.get("SYMBOL(_stext)")
    if here is not None and linked is not None:
        return here - linked
    return facts.get("KERNELOFFSET") or 0
