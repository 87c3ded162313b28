# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a page of a Xen host is what it is: whose it is by Xen, and if it is dom0's, what Linux says of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from npdump.arrays import contains
from npdump.errors import AddressError, FactError
from npdump.pages.explanation import PageExplanation
from npdump.pages.policy import PageClass
from npdump.pages.xen import UserDomains

if TYPE_CHECKING:
    from collections.abc import Callable

    from npdump.kernel.xen.domain import PhysToMachine
    from npdump.kernel.xen.hypervisor import Hypervisor
    from npdump.observer import Observer

__all__ = ["explain_frame"]

_WORDS = {
    PageClass.GUEST: "a domain that Xen doesn't list, and -X leaves it out",
    PageClass.FREE: "nobody: Xen has it free, and -X leaves it out",
    PageClass.HWPOISON: "nobody: Xen holds it for broken, and -X leaves it out",
    PageClass.KEPT: "Xen itself",
}

_SPECIAL = {0x7FF1: " (dom_io: memory of devices and firmware)", 0x7FF2: " (dom_xen: shared memory of Xen's)"}
"""Domains that are none (Xen ``xen/include/public/xen.h``, DOMID_IO and DOMID_XEN)."""


def explain_frame(
    explain: Callable[[int], PageExplanation],
    find_hypervisor: Callable[[], Hypervisor | None],
    p2m: PhysToMachine,
    mfn: int,
    observer: Observer,
) -> PageExplanation:
    """Return what a page frame of the machine is.

    Parameters
    ----------
    explain : callable
        Returns what a page frame of dom0's is; raises as `npdump.pages.explain.Explainer`.
    find_hypervisor : callable
        Returns the Xen that knows it; raises where it isn't told enough of it.
    p2m : PhysToMachine
        Of dom0.
    mfn : int
    observer : Observer
    """
    source, pfn = p2m.source, p2m.pfn_of(mfn)
    if pfn is not None:
        told = explain(pfn)
        block = "" if told.block_npages == 1 else ", and the block too"
        owner = f"dom0, which counts it as page frame {pfn:#x}{block}"
        return replace(told, pfn=mfn, paddr=mfn * source.page_size, owner=owner)
    return PageExplanation(
        pfn=mfn,
        paddr=mfn * source.page_size,
        is_memory=contains(source.ram_runs, mfn),
        is_dumped=contains(source.data_runs, mfn),
        struct_page=None,
        fields={},
        flags=(),
        traits={},
        block_pfn=mfn,
        block_npages=1,
        class_by_level={},
        owner=_owner(find_hypervisor, mfn, observer),
    )


def _owner(find_hypervisor: Callable[[], Hypervisor | None], mfn: int, observer: Observer) -> str | None:
    try:
        hypervisor = find_hypervisor()
        if hypervisor is None:
            return None
        found = UserDomains(hypervisor).class_of(mfn)
        infos = hypervisor.page_infos(mfn, mfn + 1)
    except (FactError, AddressError) as error:
        observer.warn(f"{error}: whose page frame {mfn:#x} is can't be told")
        return None
    if not infos.exists[0]:
        return "nobody: Xen doesn't manage it, and -X leaves it out"
    owner = int(infos.records["owner"][0])
    number = next((domain.number for domain in hypervisor.domains if domain.pickled == owner), None)
    if found in (PageClass.GUEST, PageClass.KEPT) and number is not None:
        return f"domain {number}{_SPECIAL.get(number, '')}{', which -X leaves out' if number else ''}"
    return _WORDS[found]
