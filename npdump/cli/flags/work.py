# SPDX-License-Identifier: GPL-2.0-or-later
"""How the work is done: threads, memory, ways of reading, limits."""

from npdump.cli.flags._declare import Rule, flag, integer, size

MAX_BLOCK_ORDER = 16  # 2^16 pages of 4 KiB are 256 MiB held back from the output
MAX_NUM_THREADS = 4096
MAX_CYCLIC_BUFFER_KIB = 1 << 32

TITLE = "work"

FLAGS = (
    flag(
        "--num-threads",
        metavar="N",
        type=integer(0, MAX_NUM_THREADS),
        help="read and compress with N threads, each of which takes 6 MiB of memory; 0 and 1 mean none beside the main "
        "one; by default as many as there are CPUs, memory and work for; DUMPFILE is the same whatever N is",
    ),
    flag(
        "-b",
        dest="block_order",
        metavar="ORDER",
        type=integer(0, MAX_BLOCK_ORDER),
        default=4,
        help="gather 2^ORDER pages before writing them; the default is 4",
    ),
    flag(
        "--cyclic-buffer",
        dest="cyclic_buffer_kib",
        metavar="KIB",
        type=integer(0, MAX_CYCLIC_BUFFER_KIB),
        help="KiB of memory for the bitmaps of pages; 0 means to decide by itself, as without the option",
    ),
    flag(
        "--sync",
        action="store_true",
        default=None,
        help="wait until the disk has the whole DUMPFILE before it says that it is whole, and before npdump ends: then "
        "not even a power cut leaves one that looks whole and is not; the default where VMCORE is in /proc, as in the "
        "capture kernel",
    ),
    flag(
        "--no-sync",
        dest="sync",
        action="store_false",
        default=None,
        help="leave the writing to the system, as makedumpfile does; the default where VMCORE is not in /proc",
    ),
    flag("--work-dir", metavar="DIR", help="directory for temporary files"),
    flag(
        "--non-mmap",
        action="store_true",
        help="read files in /proc with read(2) too, never with mmap(2)",
    ),
    flag(
        "--machine",
        metavar="NAME",
        help="take VMCORE for a dump of the machine that uname -m calls NAME, whatever its headers say",
    ),
    flag(
        "--max-lost",
        metavar="N",
        type=integer(0, 1 << 36),
        help="stop with an error when more than N pages can't be had: by default each is said, counted and left out, "
        "and the exit code is 1 if one couldn't be read, 0 if all such pages are damaged in VMCORE",
    ),
    flag(
        "--max-unpacked",
        dest="max_unpacked_nbytes",
        metavar="SIZE",
        type=size,
        help="let a VMCORE that is compressed as a whole unpack to at most SIZE bytes; by default to 1 GiB and 2048 "
        "times its own size",
    ),
)

RULES: tuple[Rule, ...] = ()
