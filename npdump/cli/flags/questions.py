# SPDX-License-Identifier: GPL-2.0-or-later
"""What makedumpfile can be asked instead of making a DUMPFILE."""

from npdump.cli.flags._declare import Rule, address, flag

TITLE = "questions, instead of making a DUMPFILE"

FLAGS = (
    flag(
        "--dump-dmesg",
        action="store_true",
        help="write the kernel log of VMCORE to DUMPFILE, or to the standard output if DUMPFILE is not given; a file "
        "that holds a dump is taken for a part of VMCORE, never for DUMPFILE",
    ),
    flag("--partial-dmesg", action="store_true", help="as --dump-dmesg, from the last dmesg --clear on"),
    flag("--mem-usage", action="store_true", help="show what the pages of VMCORE, or of /proc/kcore, are used for"),
    flag(
        "--vtop",
        metavar="ADDRESS",
        type=address,
        help="translate a kernel virtual address, in C notation, to the physical address",
    ),
)

RULES: tuple[Rule, ...] = ()
