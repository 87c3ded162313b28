# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: names, help texts and rules, with the standard library alone.

Letters, meanings and syntax are makedumpfile(8)'s, hence getopt_long(3)'s: combined letters (``-cd31``), options
anywhere, long options by any unique prefix. :mod:`getopt` splits the arguments by these rules, which argparse does not
follow (it reads the ``x`` of ``-lx`` as an argument of ``-l``, and an option after ``--``); :mod:`argparse` converts
them and holds the texts, from which ``--help`` and the man page are made.

The man page is built by running this file alone, outside of the package: nothing else of npdump may be imported at the
top, and so all of the command line is here.
"""

import argparse
import getopt
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

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
MAX_SPLITBLOCK_KIB = 1 << 36
ZLIB_ENGINES = ("isal", "libdeflate", "zlib")


class UnsupportedOption(NamedTuple):
    """An option of makedumpfile that npdump knows by name and refuses."""

    flag: str
    metavar: str | None
    purpose: str


UNSUPPORTED_OPTIONS = (
    UnsupportedOption("-e", None, "it excludes the page structs of excluded pages"),
    UnsupportedOption("-X", None, "it excludes the pages of Xen's user domains"),
    UnsupportedOption("--config", "FILE", "it erases kernel data"),
    UnsupportedOption("--diskset", "VMCORE", "it reads sadump disk sets"),
    UnsupportedOption("--eppic", "MACRO", "it erases kernel data"),
    UnsupportedOption("--extension", "FILE", "it loads a makedumpfile extension"),
    UnsupportedOption("--xen-syms", "FILE", "it reads the hypervisor's facts"),
    UnsupportedOption("--xen-vmcoreinfo", "FILE", "it reads the hypervisor's facts"),
    UnsupportedOption("--xen_phys_start", "ADDRESS", "it belongs to Xen dumps"),
)


class Command(NamedTuple):
    """Something npdump does.

    Attributes
    ----------
    operands : tuple of str
        The fields of `Options` that the operands go to, in order.
    n_needed : int
        How many of them may not be empty.
    several : str or None
        The one that takes all operands that the others leave.
    has_json : bool
    """

    operands: tuple[str, ...]
    n_needed: int
    several: str | None = None
    has_json: bool = True


FILTER = "filter"
COMMANDS = {
    FILTER: Command(("vmcores", "dumpfiles"), 2, "vmcores"),
    "dmesg": Command(("vmcores", "dumpfiles"), 1, "vmcores"),
    "vtop": Command(("vmcores",), 1, "vmcores"),
    "mem_usage": Command(("vmcores",), 1, "vmcores"),
    "info": Command(("vmcores",), 1, "vmcores"),
    "explain": Command(("vmcores", "pages"), 2, "pages"),
    "rearrange": Command(("dumpfiles",), 1, has_json=False),
    "make_vmcoreinfo": Command((), 0, has_json=False),
    "completion": Command(("shells",), 1, has_json=False),
    "stats": Command(("vmcores",), 1, "vmcores"),
    "map": Command(("vmcores", "dumpfiles"), 2, "vmcores", has_json=False),
    "compare": Command(("vmcores",), 1, "vmcores"),
    "check": Command(("vmcores",), 1, "vmcores"),
    "skeleton": Command(("vmcores",), 1, "vmcores"),
    "report": Command(("vmcores", "dumpfiles"), 2, "vmcores", has_json=False),
}
"""By the name of the module of :mod:`npdump.cli.commands` that does it."""

_FLATTEN = Command(("vmcores",), 1, "vmcores")
_SPLIT = Command(("vmcores", "dumpfiles"), 2, "dumpfiles")

SUBCOMMANDS = ("info", "explain", "stats", "map", "report", "compare", "skeleton", "check", "completion")
"""Commands that makedumpfile does not have: the first argument names them. A vmcore of that name is ``./info``."""

ONLY_WITH = {
    "verbose": "info",
    "by": "stats",
    "csv": "stats",
    "layout": "map",
    "compares_stored": "compare",
    "allowed": "compare",
    "junit": "compare",
}
"""Options that belong to one command, by the name of their value."""

PARTS_OF_MEMORY = ("all", "node", "zone", "section", "order", "level")
MAP_LAYOUTS = ("hilbert", "rows")
COMPARED = ("memory", "lost", "extra", "changed", "stored", "headers", "notes", "vmcoreinfo")
"""As `npdump.compare.AREAS`."""

DESCRIPTION = """\
npdump reads the memory image of a crashed kernel, finds out what each page of memory was used for, leaves out the
pages that the dump level names, and writes the rest to a small DUMPFILE that crash, gdb, drgn and libkdumpfile open.
It takes the options of makedumpfile(8)."""


class Options(NamedTuple):
    """A checked command line.

    ``message_level`` is what is in force: the bits that ``-D`` and ``--show-stats`` add are in it.
    """

    command: str = FILTER
    vmcores: tuple[str, ...] = ()
    dumpfiles: tuple[str, ...] = ()
    pages: tuple[str, ...] = ()
    shells: tuple[str, ...] = ()
    vtop: int | None = None
    partial_dmesg: bool = False
    vmcoreinfo: str | None = None
    vmcoreinfo_at: int | None = None
    override: bool = False
    vmlinux: str | None = None
    new_vmcoreinfo: str | None = None
    strict: bool = False
    codec: str = "raw"
    dump_level: int = 0
    retry_levels: tuple[int, ...] = ()
    limit_nbytes: int | None = None
    flatten: bool = False
    lz4: bool = False
    split: bool = False
    splitblock_kib: int | None = None
    reassemble: bool = False
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
    machine: str | None = None
    max_unpacked_nbytes: int | None = None
    max_lost: int | None = None
    zlib_engine: str | None = None
    codec_level: int | None = None
    verify: bool = True
    share: bool = True
    verbose: bool = False
    by: str | None = None
    csv: bool = False
    layout: str | None = None
    compares_stored: bool = False
    allowed: tuple[tuple[str, int], ...] | None = None
    junit: str | None = None
    show_help: bool = False
    show_version: bool = False

    @property
    def is_answered_on_stdout(self) -> bool:
        """Whether the standard output carries the answer to a question, and nothing else."""
        return self.json or (self.command != FILTER and not self.dumpfiles and self.new_vmcoreinfo is None)


def parse(argv: Sequence[str]) -> Options:
    """Read a command line, without the program's name.

    Raises
    ------
    UsageError
        Unknown or refused option, value out of range, options that contradict each other, operands missing or too many.
        No file is looked at.
    """
    parser = build_parser()
    word = argv[0] if argv and argv[0] in SUBCOMMANDS else None
    arguments, operands = _split(parser, argv[1:] if word else argv)
    values = vars(parser.parse_args(arguments))
    del values["vmcore"], values["dumpfile"]  # these are in the operands
    values["command"] = _command(word, values)
    refused = values.pop("refused")
    if values["show_help"] or values["show_version"]:
        return Options(values["command"], show_help=values["show_help"], show_version=values["show_version"])
    if refused is not None:
        raise _usage_error(f"option {refused.flag} is not supported by npdump yet: {refused.purpose}")
    values["dump_level"], *values["retry_levels"] = values["dump_level"]
    values["retry_levels"] = tuple(values["retry_levels"])
    command = COMMANDS[values["command"]]
    if values["command"] == FILTER:
        command = _FLATTEN if values["flatten"] else _SPLIT if values["split"] else command
    options = Options(**(values | _sort_operands(command, operands)))
    _check(options)
    return options._replace(
        message_level=_message_level(options),
        cyclic_buffer_kib=options.cyclic_buffer_kib or None,  # makedumpfile takes 0 for "not given"
    )


def build_parser() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = _Parser(
        prog="npdump",
        usage="npdump [OPTION]... VMCORE DUMPFILE\n"
        "       npdump -F [OPTION]... VMCORE > FLATTENED\n"
        "       npdump -R DUMPFILE < FLATTENED\n"
        "       npdump --split [OPTION]... VMCORE DUMPFILE DUMPFILE...\n"
        "       npdump --reassemble DUMPFILE... DUMPFILE\n"
        "       npdump --dump-dmesg | --partial-dmesg [OPTION]... VMCORE... [LOGFILE]\n"
        "       npdump --mem-usage | --vtop ADDRESS [OPTION]... VMCORE\n"
        "       npdump -g VMCOREINFO -x VMLINUX\n"
        "       npdump info [OPTION]... VMCORE...\n"
        "       npdump explain [OPTION]... VMCORE PAGE...\n"
        "       npdump stats [--by PART] [--json|--csv] VMCORE...\n"
        "       npdump map [--layout LAYOUT] VMCORE... PICTURE\n"
        "       npdump report VMCORE... PAGE.html\n"
        "       npdump compare [--bytes] [--allow LIST] [--json] [--junit FILE] VMCORE VMCORE...\n"
        "       npdump skeleton VMCORE... > REFERENCE.json; npdump compare REFERENCE.json VMCORE\n"
        "       npdump check [--json] VMCORE...\n"
        "       npdump completion bash|zsh|fish",
        description=DESCRIPTION,
        epilog="Options of makedumpfile that are refused for now: "
        f"{', '.join(option.flag for option in UNSUPPORTED_OPTIONS)}.",
        add_help=False,
        allow_abbrev=False,  # _split() has expanded them
    )
    parser.set_defaults(refused=None)
    files = parser.add_argument_group("operands")
    files.add_argument(
        "vmcore",
        metavar="VMCORE",
        nargs="?",
        help="the memory image: /proc/vmcore, or a file, device or pipe that holds an ELF vmcore (kdump, QEMU) or a "
        "dump that was filtered before: kdump-compressed, ELF or flattened, each also compressed as a whole (.gz, .xz, "
        ".zst, .lz4); several files are the parts of a split dump; - is the standard input",
    )
    files.add_argument(
        "dumpfile",
        metavar="DUMPFILE",
        nargs="?",
        help="the file to make, readable by its owner only; left out with -F; may be left out with --dry-run",
    )
    _add_output_options(parser.add_argument_group("output"))
    _add_work_options(parser.add_argument_group("work"))
    _add_fact_options(parser.add_argument_group("kernel facts"))
    _add_question_options(parser.add_argument_group("questions, instead of making a DUMPFILE"))
    _add_look_options(parser.add_argument_group("looking at dumps, and comparing them"))
    _add_message_options(parser.add_argument_group("messages"))
    for option in UNSUPPORTED_OPTIONS:
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
        type=_levels,
        default=(0,),
        help="leave out pages by type; LEVEL is the sum of 1 (pages filled with zero), 2 (page cache without private "
        "data), 4 (all page cache), 8 (user data) and 16 (free pages); 0, the default, leaves out none of these; pages "
        "that must not be read go at every level: broken (hwpoison) and offline ones (given back to the hypervisor); "
        "with a list, as 11,31, the next level is tried when the output doesn't fit",
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
    add(
        "-F",
        dest="flatten",
        action="store_true",
        help="write the dump to the standard output, in the flattened format, and all messages to the standard error",
    )
    add(
        "--lz4",
        action="store_true",
        help="with -F, compress the stream as a whole, for slow links; -R unpacks it, and so does lz4 -d",
    )
    add(
        "-R",
        dest="rearrange",
        action="store_true",
        help="make DUMPFILE of a dump in the flattened format that is read from the standard input",
    )
    add("--split", action="store_true", help="make several DUMPFILEs, with about the same number of pages each")
    add(
        "--splitblock-size",
        dest="splitblock_kib",
        metavar="KIB",
        type=_integer(1, MAX_SPLITBLOCK_KIB),
        help="with --split, divide memory at multiples of so many KiB (a multiple of 64 pages; by default 64 pages)",
    )
    add("--reassemble", action="store_true", help="make one DUMPFILE of all parts of a split dump, given in any order")
    add(
        "-L",
        dest="limit_nbytes",
        metavar="SIZE",
        type=_size,
        help="write at most SIZE bytes; the letter K, M, G or T multiplies by 2^10, 2^20, 2^30 or 2^40; a dump that "
        "needs more is incomplete, with every page that fits, unless -d names a further level",
    )
    add("-f", dest="force", action="store_true", help="overwrite DUMPFILE if it exists")
    add(
        "--zlib-engine",
        choices=ZLIB_ENGINES,
        metavar="ENGINE",
        help="what compresses for -c: isal (ISA-L: three times as fast as zlib, files 3 percent larger; "
        "a few bytes may differ from run to run), libdeflate (twice as fast) or zlib (the same bytes as makedumpfile "
        "with the same zlib); by default the first that is installed",
    )
    add(
        "--codec-level",
        metavar="LEVEL",
        type=_integer(-2, 15),
        help="how hard to compress: one of liblzo2's variants 11, 12 (the default), 1 (makedumpfile's) and 15; zstd's "
        "levels -2 to 3; zlib's 0 and 1, of which 0 is twice as fast with ISA-L, and makes files a fifth larger; the "
        "default of zstd and zlib is 1",
    )
    add(
        "--no-share",
        dest="share",
        action="store_false",
        help="store pages that equal an earlier one once more, as makedumpfile does; by default they share its place",
    )
    add("--dry-run", action="store_true", help="do everything but write DUMPFILE")


def _add_work_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--num-threads",
        metavar="N",
        type=_integer(0, MAX_NUM_THREADS),
        help="read and compress with N threads, each of which takes 6 MiB of memory; 0 and 1 mean none beside the main "
        "one; by default as many as there are CPUs, memory and work for; DUMPFILE is the same whatever N is",
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
    add(
        "--non-mmap",
        action="store_true",
        help="read files in /proc with read(2) too, never with mmap(2)",
    )
    add(
        "--machine",
        metavar="NAME",
        help="take VMCORE for a dump of the machine that uname -m calls NAME, whatever its headers say",
    )
    add(
        "--max-lost",
        metavar="N",
        type=_integer(0, 1 << 36),
        help="stop with an error when more than N pages can't be had: by default each is said, counted and left out, "
        "and the exit code is 1 if one couldn't be read, 0 if all such pages are damaged in VMCORE",
    )
    add(
        "--max-unpacked",
        dest="max_unpacked_nbytes",
        metavar="SIZE",
        type=_size,
        help="let a VMCORE that is compressed as a whole unpack to at most SIZE bytes; by default to 1 GiB and 2048 "
        "times its own size",
    )


def _add_fact_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "-x",
        dest="vmlinux",
        metavar="VMLINUX",
        help="take what VMCORE does not tell about its kernel from the kernel's debug information; VMLINUX may be "
        "compressed (.xz, .zst, .gz) and must be of the very same kernel",
    )
    add(
        "-i",
        dest="vmcoreinfo",
        metavar="VMCOREINFO",
        help="take what VMCORE does not tell about its kernel from a text file that -g made",
    )
    add("--override", action="store_true", help="believe the file of -i where VMCORE says something else")
    add(
        "--vmcoreinfo-at",
        metavar="PADDR|N",
        type=_address,
        help="of several VMCOREINFO texts in VMCORE use the Nth, or the one at a physical address, instead of the one "
        "that leads to a kernel",
    )
    add(
        "-g",
        dest="new_vmcoreinfo",
        metavar="VMCOREINFO",
        help="write what -x VMLINUX tells about a kernel to the text file VMCOREINFO; no VMCORE is needed",
    )
    add(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="don't uncompress pages of a filtered VMCORE that are copied as they are: faster, but a damaged one is "
        "not noticed",
    )
    add("--strict", action="store_true", help="take it for an error if the result does not fit the kernel's own counts")


def _add_question_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--dump-dmesg",
        action="store_true",
        help="write the kernel log of VMCORE to DUMPFILE, or to the standard output if DUMPFILE is not given; a file "
        "that holds a dump is taken for a part of VMCORE, never for DUMPFILE",
    )
    add("--partial-dmesg", action="store_true", help="as --dump-dmesg, from the last dmesg --clear on")
    add("--mem-usage", action="store_true", help="show what the pages of VMCORE, or of /proc/kcore, are used for")
    add(
        "--vtop",
        metavar="ADDRESS",
        type=_address,
        help="translate a kernel virtual address, in C notation, to the physical address",
    )


def _add_look_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--verbose", action="store_true", help="with info, list the segments (PT_LOAD) and VMCOREINFO texts too")
    add(
        "--by",
        choices=PARTS_OF_MEMORY,
        metavar="PART",
        help="with stats, count apart by node, zone, section, or order (of blocks); level: what each dump level keeps",
    )
    add("--csv", action="store_true", help="with stats, print numbers of pages, separated by commas")
    add(
        "--layout",
        choices=MAP_LAYOUTS,
        metavar="LAYOUT",
        help="with map, lay memory out along hilbert curves, where what is near stays near (the default), or in rows",
    )
    add(
        "--bytes",
        dest="compares_stored",
        action="store_true",
        help="with compare, compare the compressed bytes of pages too",
    )
    add(
        "--allow",
        dest="allowed",
        metavar="LIST",
        type=_allowed,
        help="with compare, differences that are no difference, as lost=0,extra=100: pages of memory, lost, extra, "
        "changed, stored; or entries of headers, notes, vmcoreinfo",
    )
    add("--junit", metavar="FILE", help="with compare, write the result to FILE as JUnit XML too")


def _allowed(text: str) -> tuple[tuple[str, int], ...]:
    """Read a list of areas and numbers, as ``lost=0,extra=100``."""
    found = []
    for item in text.split(","):
        name, _, number = item.partition("=")
        if name not in COMPARED or not re.fullmatch("[0-9]{1,18}", number):
            raise argparse.ArgumentTypeError(f"{item!r} is none of {', '.join(COMPARED)}, with = and a number")
        found.append((name, int(number)))
    return tuple(found)


def _address(text: str) -> int:
    """Read an address as strtoul(3) with base 0 does."""
    digits = text.lower().removeprefix("0x")
    base = 16 if digits != text.lower() else 8 if re.fullmatch("0[0-7]+", text) else 10
    try:
        value = int(digits, base)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64 or not digits.isalnum():
        raise argparse.ArgumentTypeError(f"{text!r} is not an address, such as 0xffffffff81000000")
    return value


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
    add("--json", action="store_true", help="print the report of --show-stats, or the answer to a question, as JSON")
    add(
        "--check-params",
        action="store_true",
        help="check the command line, open no file, and exit: 0 if it is right, 1 if not",
    )
    add("-v", "--version", dest="show_version", action="store_true", help="print the version and the codecs, and exit")
    add("-h", "--help", dest="show_help", action="store_true", help="print this text, and exit")


_RULES: tuple[tuple[Callable[[Options], object], str], ...] = (
    (
        lambda o: o.format == "elf" and o.codec != "raw",
        "-E with {codec} compression: the ELF format cannot hold compressed pages",
    ),
    (
        lambda o: o.zlib_engine is not None and o.codec != "zlib",
        "--zlib-engine without -c: nothing is compressed with zlib",
    ),
    (
        lambda o: o.codec_level is not None and o.codec == "raw",
        "--codec-level without -c, -l, -p or -z: nothing is compressed",
    ),
    (
        lambda o: o.vmlinux is not None and o.vmcoreinfo is not None,
        "-x with -i: the kernel's facts come from one of them",
    ),
    (
        lambda o: o.override and o.vmcoreinfo is None,
        "--override without -i VMCOREINFO: there is no file to believe",
    ),
    (
        lambda o: o.new_vmcoreinfo is not None and o.vmlinux is None,
        "-g without -x VMLINUX: there is nothing to make a VMCOREINFO file from",
    ),
    (
        lambda o: o.split and (o.format == "elf" or o.flatten or o.reassemble),
        "--split with -E, -F or --reassemble: only kdump-compressed dumps are split, into files",
    ),
    (
        lambda o: o.lz4 and not o.flatten,
        "--lz4 without -F: only a stream is compressed as a whole",
    ),
    (
        lambda o: o.split and not o.dry_run and len(o.dumpfiles) < 2,
        "--split: two DUMPFILEs at least are needed",
    ),
    (
        lambda o: o.reassemble and (o.dump_level or o.codec != "raw" or o.format == "elf"),
        "--reassemble with -d, -c, -l, -p, -z or -E: it copies pages as they are; filter the parts",
    ),
    (
        lambda o: o.reassemble and len(o.vmcores) < 2,
        "--reassemble: two parts at least and the DUMPFILE are needed",
    ),
    (
        lambda o: o.json and o.csv,
        "--json with --csv: give one",
    ),
    (
        lambda o: o.command == "compare" and len(o.vmcores) < 2,
        "compare: two VMCOREs at least are needed",
    ),
    (
        lambda o: o.json and o.command == FILTER and not o.show_stats,
        "--json without --show-stats: there is no report to print as JSON",
    ),
    (
        lambda o: o.json and not COMMANDS[o.command].has_json,
        "--json: this command has no answer to print as JSON",
    ),
    (
        lambda o: o.command == FILTER and "-" in o.dumpfiles,
        "DUMPFILE -: only the flattened format goes to the standard output: give -F and no DUMPFILE",
    ),
)
"""What is wrong together though it is right one by one, in the order in which it is looked at."""


def _check(options: Options) -> None:
    """Raise for options that are right one by one and wrong together."""
    for is_broken, text in _RULES:
        if is_broken(options):
            raise _usage_error(text.format(codec=options.codec))
    command = COMMANDS[options.command]
    for name, only in ONLY_WITH.items():
        if getattr(options, name) not in (None, False) and options.command != only:
            flag = {"compares_stored": "bytes", "allowed": "allow"}.get(name, name)
            raise _usage_error(f"--{flag}: belongs to npdump {only}")
    missing = [name for name in command.operands[: command.n_needed] if not getattr(options, name)]
    is_optional = missing == ["dumpfiles"] and options.command == FILTER
    if missing and not (is_optional and (options.dry_run or options.flatten)):
        hint = ": only --dry-run and -F do without" if is_optional else ""
        names = [name[:-1].upper() for name in missing]
        raise _usage_error(f"{' and '.join(names)} {_is_or_are(missing)} missing{hint}")


def _is_or_are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _command(word: str | None, values: dict[str, object]) -> str:
    """Tell which command the first argument or the options name."""
    named = {
        "make_vmcoreinfo": values["new_vmcoreinfo"] is not None,
        "dmesg": values.pop("dump_dmesg") or values["partial_dmesg"],
        "mem_usage": values.pop("mem_usage"),
        "rearrange": values.pop("rearrange"),
        "vtop": values["vtop"] is not None,
    }
    chosen = [name for name, is_named in named.items() if is_named]
    if word:
        chosen.append(word)
    if len(chosen) > 1:
        raise _usage_error(f"each of these asks for something else, give one: {', '.join(chosen)}")
    return chosen[0] if chosen else FILTER


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
        raise _usage_error(f"{error}{_did_you_mean(error.opt, [name.rstrip('=') for name in names])}") from None
    arguments = []
    for flag, value in pairs:
        if not takes_value[flag]:
            arguments.append(flag)
        elif flag.startswith("--"):
            arguments.append(f"{flag}={value}")
        else:
            arguments += [flag + value] if value else [flag, ""]
    return arguments, operands


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches  # seldom needed

    close = get_close_matches(name, known, n=2)
    return f"; did you mean --{' or --'.join(close)}?" if close and len(name) > 1 else ""


def _integer(low: int, high: int) -> Callable[[str], int]:
    """Make an argparse type for whole numbers from `low` to `high`, both included."""

    def convert(text: str) -> int:
        if re.fullmatch(r"-?[0-9]{1,12}", text) and low <= int(text) <= high:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")

    return convert


def _levels(text: str) -> tuple[int, ...]:
    """Read a dump level, or a list of them with commas."""
    return tuple(map(_integer(0, MAX_DUMP_LEVEL), text.split(",")))


def _size(text: str) -> int:
    """Read a number of bytes as Linux's memparse() does: decimal, octal or hexadecimal, with a letter."""
    match = re.fullmatch(r"(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,19})([KMGTPE]?)", text, re.IGNORECASE)
    digits = match[1] if match else "0"
    is_octal = re.fullmatch("0[0-7]+", digits) is not None
    nbytes = int(digits, 8 if is_octal else 0 if digits[:1] != "0" or digits[1:2] in ("x", "X") else 10)
    if match and match[2]:
        nbytes <<= 10 * ("KMGTPE".index(match[2].upper()) + 1)
    if not nbytes:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, such as 512M")
    return nbytes


def _sort_operands(command: Command, operands: Sequence[str]) -> dict[str, Any]:
    """Return which operands go to which fields."""
    n_more = max(len(operands) - len(command.operands), 0)
    if n_more and command.several is None:
        expected = " and ".join(f"one {name[:-1].upper()}" for name in command.operands) or "none"
        expected += f" {_is_or_are(command.operands)} expected"
        raise _usage_error(f"too many arguments: {' '.join(operands)}: {expected}")
    rest = list(operands)
    fields: dict[str, Any] = {}
    for name in command.operands:
        n = 1 + n_more if name == command.several else 1
        fields[name], rest = tuple(rest[:n]), rest[n:]
    return fields


def _usage_error(text: str) -> Exception:
    from npdump.errors import UsageError

    return UsageError(f"{text}; see npdump --help")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise: argparse would exit with 2, which means a version mismatch here."""
        raise _usage_error(message)


class _Refuse(argparse.Action):
    """Take an option's value and remember only that the option was there."""

    def __call__(self, parser: object, namespace: argparse.Namespace, *_: object) -> None:
        setattr(namespace, self.dest, self.const)
