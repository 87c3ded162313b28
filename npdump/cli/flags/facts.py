# SPDX-License-Identifier: GPL-2.0-or-later
"""Where what VMCORE does not tell about its kernel comes from."""

from npdump.cli.flags._declare import Rule, address, flag

TITLE = "kernel facts"

FLAGS = (
    flag(
        "--diskset",
        metavar="VMCORE",
        action="append",
        help="a disk of a sadump disk set; given for each of them, in any order. DUMPFILE is the only operand then",
    ),
    flag(
        "-x",
        dest="vmlinux",
        metavar="VMLINUX",
        help="take what VMCORE does not tell about its kernel from the kernel's debug information; VMLINUX may be "
        "compressed (.xz, .zst, .gz) and must be of the very same kernel",
    ),
    flag(
        "-i",
        dest="vmcoreinfo",
        metavar="VMCOREINFO",
        help="take what VMCORE does not tell about its kernel from a text file that -g made",
    ),
    flag("--override", action="store_true", help="believe the file of -i where VMCORE says something else"),
    flag(
        "--vmcoreinfo-at",
        metavar="PADDR|N",
        type=address,
        help="of several VMCOREINFO texts in VMCORE use the Nth, or the one at a physical address, instead of the one "
        "that leads to a kernel",
    ),
    flag(
        "-g",
        dest="new_vmcoreinfo",
        metavar="VMCOREINFO",
        help="write what -x VMLINUX tells about a kernel, or --xen-syms about Xen, to the text file VMCOREINFO; no "
        "VMCORE is needed",
    ),
    flag(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="don't uncompress pages of a filtered VMCORE that are copied as they are: faster, but a damaged one is "
        "not noticed",
    ),
    flag(
        "--strict", action="store_true", help="take it for an error if the result does not fit the kernel's own counts"
    ),
)

RULES = (
    Rule(
        lambda o: o.vmlinux is not None and o.vmcoreinfo is not None,
        "-x with -i: the kernel's facts come from one of them",
    ),
    Rule(
        lambda o: o.override and o.vmcoreinfo is None,
        "--override without -i VMCOREINFO: there is no file to believe",
    ),
    Rule(
        lambda o: o.new_vmcoreinfo is not None and (o.vmlinux is None) == (o.xen_syms is None),
        "-g needs one of -x VMLINUX and --xen-syms FILE to make a VMCOREINFO file from",
    ),
)
