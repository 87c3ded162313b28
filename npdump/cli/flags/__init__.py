# SPDX-License-Identifier: GPL-2.0-or-later
"""Which options there are: a module for each group that the manual page shows together.

To add an option, add it to the ``FLAGS`` of its group, with what it contradicts in ``RULES``, and its value to
`npdump.cli.options.Options`; to add a group, add a module and its name to ``GROUPS``. ``--help``, the manual page and
the completion of shells are made from these. Building npdump imports this package: it needs the standard library alone.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from npdump.cli.flags import encryption, erasing, facts, fleet, looking, messages, output, questions, rescue, work, xen
from npdump.cli.flags._declare import usage_error
from npdump.cli.flags.unsupported import UNSUPPORTED_OPTIONS

if TYPE_CHECKING:
    from typing import NoReturn

    from npdump.cli.flags._declare import Group

GROUPS: tuple[Group, ...] = (output, rescue, work, facts, xen, erasing, encryption, questions, looking, fleet, messages)

USAGE = (
    "npdump [OPTION]... VMCORE DUMPFILE\n"
    "       npdump -F [OPTION]... VMCORE > FLATTENED\n"
    "       npdump -R DUMPFILE < FLATTENED\n"
    "       npdump --split [OPTION]... VMCORE DUMPFILE DUMPFILE...\n"
    "       npdump --reassemble DUMPFILE... DUMPFILE\n"
    "       npdump --dump-dmesg | --partial-dmesg [OPTION]... VMCORE... [LOGFILE]\n"
    "       npdump --mem-usage | --vtop ADDRESS [OPTION]... VMCORE\n"
    "       npdump -g VMCOREINFO -x VMLINUX | --xen-syms XEN_SYMS\n"
    "       npdump --check-config --config FILE [OPTION]... VMCORE...\n"
    "       npdump info [OPTION]... VMCORE...\n"
    "       npdump explain [OPTION]... VMCORE PAGE...\n"
    "       npdump stats [--by PART] [--json|--csv] VMCORE...\n"
    "       npdump estimate [-d LEVEL] [-c|-l|-p|-z] VMCORE...\n"
    "       npdump map [--layout LAYOUT] VMCORE... PICTURE\n"
    "       npdump report VMCORE... PAGE.html\n"
    "       npdump compare [--bytes] [--allow LIST] [--json] [--junit FILE] VMCORE VMCORE...\n"
    "       npdump redact [--erase-log] [--strict] [--json] [OPTION]... VMCORE... DUMPFILE\n"
    "       npdump skeleton VMCORE... > REFERENCE.json; npdump compare REFERENCE.json VMCORE\n"
    "       npdump check [--json] VMCORE...\n"
    "       npdump fleet [--do LIST] [--to DIR] [--catalogue FILE] [OPTION]... SOURCE...\n"
    "       npdump fleet report CATALOGUE PAGE.html|TABLE.parquet\n"
    "       npdump completion bash|zsh|fish\n"
    "       npdump collector check | files | install FOLDER"
)

DESCRIPTION = """\
npdump reads the memory image of a crashed kernel, finds out what each page of memory was used for, leaves out the
pages that the dump level names, and writes the rest to a small DUMPFILE that crash, gdb, drgn and libkdumpfile open.
It takes the options of makedumpfile(8)."""

OPERANDS = {
    "vmcore": (
        "the memory image: /proc/vmcore, or a file, device or pipe that holds an ELF vmcore (kdump, QEMU) or a "
        "dump that was filtered before: kdump-compressed, ELF or flattened, each also compressed as a whole (.gz, .xz, "
        ".zst, .lz4); several files are the parts of a split dump; - is the standard input; s3://, "
        "gs://, az:// and https:// name objects in stores"
    ),
    "dumpfile": "the file to make, readable by its owner only, or the s3://, gs:// or az:// name of an object, "
    "which is in the flattened format; left out with -F; may be left out with --dry-run",
}


def build_parser() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = _Parser(
        prog="npdump",
        usage=USAGE,
        description=DESCRIPTION,
        epilog=f"Options of makedumpfile that are refused: {', '.join(option.flag for option in UNSUPPORTED_OPTIONS)}.",
        add_help=False,
        allow_abbrev=False,  # getopt has expanded them
    )
    parser.set_defaults(refused=None)
    operands = parser.add_argument_group("operands")
    for name, text in OPERANDS.items():
        operands.add_argument(name, metavar=name.upper(), nargs="?", help=text)
    for group in GROUPS:
        shown = parser.add_argument_group(group.TITLE)
        for flag in group.FLAGS:
            shown.add_argument(*flag.names, **flag.declaration)
    # A group, since the parser itself makes a formatter of help for each option, and that imports shutil.
    hidden = parser.add_argument_group()
    for option in UNSUPPORTED_OPTIONS:
        action = "store_const" if option.metavar is None else _Refuse
        hidden.add_argument(option.flag, dest="refused", action=action, const=option, help=argparse.SUPPRESS)
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise: argparse would exit with 2, which means a version mismatch here."""
        raise usage_error(message)


class _Refuse(argparse.Action):
    """Take an option's value and remember only that the option was there."""

    def __call__(self, parser: object, namespace: argparse.Namespace, *_: object) -> None:
        setattr(namespace, self.dest, self.const)
