# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps of hosts that ran Xen: the hypervisor is a kernel of its own, and Linux ran in one of its domains.

Page frames of such a dump are the machine's. Linux counts its memory by page frames of its domain (`domain`), and the
hypervisor knows which domain each frame of the machine belongs to (`hypervisor`).
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["XenFiles"]


class XenFiles(NamedTuple):
    """What a user says of the hypervisor, beside the dump.

    Attributes
    ----------
    syms : str or None
        Path of xen-syms.
    vmcoreinfo : str or None
        Path of a text file of the same form as the note VMCOREINFO_XEN.
    phys_start : int or None
        Machine address of Xen's image.
    """

    syms: str | None = None
    vmcoreinfo: str | None = None
    phys_start: int | None = None
