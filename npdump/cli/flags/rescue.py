# SPDX-License-Identifier: GPL-2.0-or-later
"""What is saved first, where time or room may run out."""

from npdump.cli.commands import FILTER
from npdump.cli.flags._declare import Rule, flag, integer

MAX_DEADLINE_SECONDS = 1 << 20

TITLE = "what is saved first"

FLAGS = (
    flag(
        "--save-dmesg",
        metavar="FILE",
        help="write the kernel log to FILE, and wait until the disk has it, before the dump is begun; what is wrong "
        "with the log or FILE is said, and the dump is made all the same",
    ),
    flag(
        "--deadline",
        dest="deadline_seconds",
        metavar="SECONDS",
        type=integer(1, MAX_DEADLINE_SECONDS),
        help="end when so many seconds are over: the dump is incomplete then, and says so, with the pages that a "
        "debugger needs most, which are written first",
    ),
    flag(
        "--vital-first",
        action="store_true",
        default=None,
        help="write those pages first that a debugger cannot start without: page tables, the log, variables, what the "
        "CPUs ran, all tasks, then code, constants and struct pages; the default with --deadline and -L, and where "
        "VMCORE is in /proc, as in the capture kernel; an ELF core is in the order of its page frames always",
    ),
    flag(
        "--no-vital-first",
        dest="vital_first",
        action="store_false",
        default=None,
        help="write pages in the order of their page frames, as makedumpfile does; the default otherwise: to find the "
        "others takes some hundredths of a second",
    ),
)

RULES = (
    Rule(
        lambda o: o.save_dmesg is not None and o.command != FILTER,
        "--save-dmesg with another command: it belongs to making a DUMPFILE",
    ),
    Rule(
        lambda o: o.save_dmesg is not None and o.save_dmesg in ("-", *o.vmcores, *o.dumpfiles),
        "--save-dmesg: FILE is a file of its own: neither VMCORE nor DUMPFILE nor the standard output",
    ),
    Rule(
        lambda o: o.save_dmesg is not None and o.encrypt_to,
        "--save-dmesg with --encrypt-to: the log would be there for all to read",
    ),
    Rule(
        lambda o: o.deadline_seconds is not None and o.command != FILTER,
        "--deadline with another command: it belongs to making a DUMPFILE",
    ),
)
