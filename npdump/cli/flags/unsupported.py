# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of makedumpfile that npdump refuses."""

from typing import NamedTuple


class UnsupportedOption(NamedTuple):
    """An option of makedumpfile that npdump knows by name and refuses."""

    flag: str
    metavar: str | None
    purpose: str


UNSUPPORTED_OPTIONS = (
    UnsupportedOption("-e", None, "it excludes the page structs of excluded pages"),
    UnsupportedOption("-X", None, "it excludes the pages of Xen's user domains"),
    UnsupportedOption(
        "--eppic",
        "MACRO",
        "it runs programs of its own language; --config FILE or --extension FILE.py erases what one does",
    ),
    UnsupportedOption("--xen-syms", "FILE", "it reads the hypervisor's facts"),
    UnsupportedOption("--xen-vmcoreinfo", "FILE", "it reads the hypervisor's facts"),
    UnsupportedOption("--xen_phys_start", "ADDRESS", "it belongs to Xen dumps"),
)
