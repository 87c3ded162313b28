"""The command line: names, help texts and rules, with the standard library alone.

Letters, meanings and syntax are makedumpfile(8)'s, hence getopt_long(3)'s: combined letters (``-cd31``), options
anywhere, long options by any unique prefix. :mod:`getopt` splits the arguments by these rules, which argparse does not
follow (it reads the ``x`` of ``-lx`` as an argument of ``-l``, and an option after ``--``); :mod:`argparse` converts
them and holds the texts, from which ``--help`` and the man page are made.

The man page is built by running this file alone, outside of the package: nothing else of npdump may be imported at the
top.
"""

import argparse
import getopt
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, NoReturn

MESSAGE_PROGRESS = 1
MESSAGE_COMMON = 2
MESSAGE_ERROR = 4
MESSAGE_DEBUG = 8
MESSAGE_REPORT = 16
DEFAULT_MESSAGE_LEVEL = MESSAGE_PROGRESS | MESSAGE_COMMON | MESSAGE_ERROR

MAX_DUMP_LEVEL = 31
MAX_MESSAGE_LEVEL = 31
MAX_BLOCK_ORDER = 16  # 2^16 pages of 4 KiB are 256 MiB held back from the output
MAX_NUM_THREADS = 4096
MAX_CYCLIC_BUFFER_KIB = 1 << 32
ZLIB_ENGINES = ("isal", "zlib")


class NotYet(NamedTuple):
    """An option of makedumpfile that npdump knows by name and refuses."""

    flag: str
    metavar: str | None
    purpose: str


NOT_YET = (
    NotYet("-e", None, "it excludes the page structs of excluded pages"),
    NotYet("-F", None, "it writes the flattened format to the standard output"),
    NotYet("-g", "VMCOREINFO", "it writes a VMCOREINFO file"),
    NotYet("-i", "VMCOREINFO", "it reads the kernel's facts from a VMCOREINFO file"),
    NotYet("-L", "SIZE", "it limits the size of the output"),
    NotYet("-R", None, "it rearranges a flattened dump"),
    NotYet("-x", "VMLINUX", "it reads the kernel's facts from its debug information"),
    NotYet("-X", None, "it excludes the pages of Xen's user domains"),
    NotYet("--config", "FILE", "it erases kernel data"),
    NotYet("--diskset", "VMCORE", "it reads sadump disk sets"),
    NotYet("--dump-dmesg", None, "it writes the kernel log alone"),
    NotYet("--eppic", "MACRO", "it erases kernel data"),
    NotYet("--extension", "FILE", "it loads a makedumpfile extension"),
    NotYet("--mem-usage", None, "it shows what a dump of the running kernel would hold"),
    NotYet("--partial-dmesg", None, "it writes the kernel log alone"),
    NotYet("--reassemble", None, "it joins the parts of a split dump"),
    NotYet("--split", None, "it writes several dumpfiles"),
    NotYet("--splitblock-size", "KIB", "it belongs to --split"),
    NotYet("--vtop", "ADDRESS", "it translates a virtual address"),
    NotYet("--xen-syms", "FILE", "it reads the hypervisor's facts"),
    NotYet("--xen-vmcoreinfo", "FILE", "it reads the hypervisor's facts"),
    NotYet("--xen_phys_start", "ADDRESS", "it belongs to Xen dumps"),
)

DESCRIPTION = """\
npdump reads the memory image of a crashed kernel, finds out what each page of memory was used for, leaves out the
pages that the dump level names, and writes the rest to a small DUMPFILE that crash, gdb, drgn and libkdumpfile open.
It takes the options of makedumpfile(8)."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """A checked command line.

    ``message_level`` is what is in force: the bits that ``-D`` and ``--show-stats`` add are in it.
    """

    vmcore: str | None = None
    dumpfile: str | None = None
    codec: str = "raw"
    dump_level: int = 0
    format: str = "kdump"
    force: bool = False
    block_order: int = 4
    debug: bool = False
    message_level: int = DEFAULT_MESSAGE_LEVEL
    check_params: bool = False
    dry_run: bool = False
    show_stats: bool = False
    json: bool = False
    num_threads: int | None = None
    cyclic_buffer_kib: int | None = None
    non_mmap: bool = False
    work_dir: str | None = None
    zlib_engine: str | None = None
    show_help: bool = False
    show_version: bool = False


def parse(argv: Sequence[str]) -> Options:
    """Read a command line, without the program's name.

    Raises
    ------
    UsageError
        Unknown or refused option, value out of range, options that contradict each other, operands missing or too many.
        No file is looked at.
    """
    parser = build_parser()
    arguments, operands = _split(parser, argv)
    values = vars(parser.parse_args(arguments))
    refused = values.pop("refused")
    if values["show_help"] or values["show_version"]:
        return Options(**values)
    if refused is not None:
        raise _usage_error(f"option {refused.flag} is not supported by npdump yet: {refused.purpose}")
    if len(operands) > 2:
        raise _usage_error(f"too many arguments: {' '.join(operands)}: one VMCORE and one DUMPFILE are expected")
    values.update(zip(("vmcore", "dumpfile"), operands, strict=False))
    options = Options(**values)
    _check(options)
    return replace(
        options,
        message_level=_message_level(options),
        cyclic_buffer_kib=options.cyclic_buffer_kib or None,  # makedumpfile takes 0 for "not given"
    )


def build_parser() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = _Parser(
        prog="npdump",
        usage="npdump [OPTION]... VMCORE DUMPFILE",
        description=DESCRIPTION,
        epilog=f"Options of makedumpfile that are refused for now: {', '.join(option.flag for option in NOT_YET)}.",
        add_help=False,
        allow_abbrev=False,  # _split() has expanded them
    )
    parser.set_defaults(refused=None)
    files = parser.add_argument_group("operands")
    files.add_argument(
        "vmcore",
        metavar="VMCORE",
        nargs="?",
        help="the memory image: /proc/vmcore, or a file or device that holds an ELF vmcore (kdump, QEMU)",
    )
    files.add_argument(
        "dumpfile",
        metavar="DUMPFILE",
        nargs="?",
        help="the file to make, readable by its owner only; may be left out with --dry-run",
    )
    _add_output_options(parser.add_argument_group("output"))
    _add_work_options(parser.add_argument_group("work"))
    _add_message_options(parser.add_argument_group("messages"))
    for option in NOT_YET:
        parser.add_argument(
            option.flag,
            dest="refused",
            action="store_const" if option.metavar is None else _Refuse,
            const=option,
            help=argparse.SUPPRESS,
        )
    return parser


def _add_output_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "-d",
        dest="dump_level",
        metavar="LEVEL",
        type=_integer(0, MAX_DUMP_LEVEL, _no_list),
        default=0,
        help="leave out pages by type; LEVEL is the sum of 1 (pages filled with zero), 2 (page cache without private "
        "data), 4 (all page cache), 8 (user data) and 16 (free pages); 0, the default, leaves out none",
    )
    for flag, codec, text in (
        ("-c", "zlib", "compress each page with zlib"),
        ("-l", "lzo", "compress each page with LZO"),
        ("-p", "snappy", "compress each page with snappy"),
        ("-z", "zstd", "compress each page with zstd"),
    ):
        add(flag, dest="codec", action="store_const", const=codec, default="raw", help=text)
    add(
        "-E",
        dest="format",
        action="store_const",
        const="elf",
        default="kdump",
        help="make an ELF core instead of the kdump-compressed format; it cannot be compressed",
    )
    add("-f", dest="force", action="store_true", help="overwrite DUMPFILE if it exists")
    add(
        "--zlib-engine",
        choices=ZLIB_ENGINES,
        metavar="ENGINE",
        help="what compresses for -c: isal (ISA-L: about three times as fast, files a few percent larger) or zlib "
        "(the same bytes as makedumpfile with the same zlib); by default isal if it is installed",
    )
    add("--dry-run", action="store_true", help="do everything but write DUMPFILE")


def _add_work_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--num-threads",
        metavar="N",
        type=_integer(0, MAX_NUM_THREADS),
        help="compress with N worker processes; 0 and 1 mean none beside the main one; by default one for each usable "
        "CPU; DUMPFILE is the same whatever N is",
    )
    add(
        "-b",
        dest="block_order",
        metavar="ORDER",
        type=_integer(0, MAX_BLOCK_ORDER),
        default=4,
        help="gather 2^ORDER pages before writing them; the default is 4",
    )
    add(
        "--cyclic-buffer",
        dest="cyclic_buffer_kib",
        metavar="KIB",
        type=_integer(0, MAX_CYCLIC_BUFFER_KIB),
        help="KiB of memory for the bitmaps of pages; 0 means to decide by itself, as without the option",
    )
    add("--work-dir", metavar="DIR", help="directory for temporary files")
    add("--non-mmap", action="store_true", help="read VMCORE with read(2), never with mmap(2)")


def _add_message_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--message-level",
        metavar="LEVEL",
        type=_integer(0, MAX_MESSAGE_LEVEL),
        default=DEFAULT_MESSAGE_LEVEL,
        help="what to print; LEVEL is the sum of 1 (progress), 2 (common messages), 4 (errors), 8 (debugging) and "
        "16 (report); the default is 7",
    )
    add("-D", dest="debug", action="store_true", help="print debugging messages too")
    add("--show-stats", action="store_true", help="print the report: how many pages of each type were left out")
    add("--json", action="store_true", help="with --show-stats, print the report as JSON")
    add(
        "--check-params",
        action="store_true",
        help="check the command line, open no file, and exit: 0 if it is right, 1 if not",
    )
    add("-v", "--version", dest="show_version", action="store_true", help="print the version and the codecs, and exit")
    add("-h", "--help", dest="show_help", action="store_true", help="print this text, and exit")


def _check(options: Options) -> None:
    """Raise for options that are right one by one and wrong together."""
    if options.format == "elf" and options.codec != "raw":
        raise _usage_error(f"-E with {options.codec} compression: the ELF format cannot hold compressed pages")
    if options.zlib_engine is not None and options.codec != "zlib":
        raise _usage_error("--zlib-engine without -c: nothing is compressed with zlib")
    if options.json and not options.show_stats:
        raise _usage_error("--json without --show-stats: there is no report to print as JSON")
    if options.vmcore is None:
        raise _usage_error("VMCORE and DUMPFILE are missing")
    if options.dumpfile is None and not options.dry_run:
        raise _usage_error("DUMPFILE is missing: only --dry-run does without")


def _message_level(options: Options) -> int:
    if options.check_params:
        return DEFAULT_MESSAGE_LEVEL
    return options.message_level | MESSAGE_DEBUG * options.debug | MESSAGE_REPORT * options.show_stats


def _split(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sort arguments into options, spelled in full and joined with their values, and operands."""
    takes_value = {flag: action.nargs != 0 for action in parser._actions for flag in action.option_strings}
    letters = "".join(flag[1:] + ":" * takes_value[flag] for flag in takes_value if not flag.startswith("--"))
    names = [flag[2:] + "=" * takes_value[flag] for flag in takes_value if flag.startswith("--")]
    try:
        pairs, operands = getopt.gnu_getopt(list(argv), letters, names)
    except getopt.GetoptError as error:
        raise _usage_error(str(error)) from None
    arguments = []
    for flag, value in pairs:
        if not takes_value[flag]:
            arguments.append(flag)
        elif flag.startswith("--"):
            arguments.append(f"{flag}={value}")
        else:
            arguments += [flag + value] if value else [flag, ""]
    return arguments, operands


def _integer(low: int, high: int, advise: Callable[[str], str] = lambda text: "") -> Callable[[str], int]:
    """Make an argparse type for whole numbers from `low` to `high`, both included."""

    def convert(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,12}", text) and low <= int(text) <= high:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}{advise(text)}")

    return convert


def _no_list(text: str) -> str:
    return "; lists of levels are not supported by npdump yet" if "," in text else ""


def _usage_error(text: str) -> Exception:
    from npdump.errors import UsageError  # not at the top: see there

    return UsageError(f"{text}; see npdump --help")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise: argparse would exit with 2, which means a version mismatch here."""
        raise _usage_error(message)


class _Refuse(argparse.Action):
    """Take an option's value and remember only that the option was there."""

    def __call__(self, parser: object, namespace: argparse.Namespace, *_: object) -> None:
        setattr(namespace, self.dest, self.const)
