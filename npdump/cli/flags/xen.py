# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps of hosts that ran Xen."""

from npdump.cli.flags._declare import Rule, address, flag

TITLE = "hosts that ran Xen"

FLAGS = (
    flag(
        "-X",
        dest="drop_guests",
        action="store_true",
        help="leave out the pages of user domains and those that Xen has free: only pages of Xen itself and of dom0 "
        "stay; x86_64 only",
    ),
    flag(
        "--xen-syms",
        metavar="FILE",
        help="take what VMCORE does not tell about Xen from its debug information, the file xen-syms of the very same "
        "build; with -g, write that to the text file VMCOREINFO",
    ),
    flag(
        "--xen-vmcoreinfo",
        metavar="FILE",
        help="take what VMCORE does not tell about Xen from a text file that -g with --xen-syms made",
    ),
    flag(
        "--xen_phys_start",
        metavar="ADDRESS",
        type=address,
        help="the physical address of Xen's image, as in /proc/iomem, where an old Xen's VMCORE does not tell it",
    ),
)

RULES = (
    Rule(
        lambda o: o.xen_syms is not None and o.xen_vmcoreinfo is not None,
        "--xen-syms with --xen-vmcoreinfo: what is known of Xen comes from one of them",
    ),
    Rule(
        lambda o: o.reassemble and (o.drop_guests or o.drop_memmap),
        "--reassemble with -X or -e: it copies pages as they are; filter the parts",
    ),
)
