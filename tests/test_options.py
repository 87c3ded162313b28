# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: getopt_long's syntax, makedumpfile's meanings, npdump's rules."""

import subprocess
import sys

import pytest

from npdump.cli.flags import build_parser
from npdump.cli.flags.unsupported import UNSUPPORTED_OPTIONS
from npdump.cli.options import Options
from npdump.cli.parsing import parse
from npdump.errors import UsageError
from tests.harness import REPOSITORY

FILES = ["vmcore", "dumpfile"]


def refusal(*argv: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(argv)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_are_makedumpfiles() -> None:
    assert parse(FILES) == Options(
        vmcores=("vmcore",),
        dumpfiles=("dumpfile",),
        codec="raw",
        dump_level=0,
        format="kdump",
        block_order=4,
        message_level=7,
    )


@pytest.mark.parametrize(
    "line",
    [
        "-l -d 31 vmcore dumpfile",
        "-ld31 vmcore dumpfile",
        "-ld 31 vmcore dumpfile",
        "-d31 vmcore -l dumpfile",
        "vmcore dumpfile -l -d 31",
        "-l -d 31 -- vmcore dumpfile",
        "vmcore dumpfile -ld31",
        "vmcore -l dumpfile -d 31",
        "-c -d 1 -l -d 31 vmcore dumpfile",  # the last one wins
    ],
)
def test_letters_combine_and_stand_anywhere(line: str) -> None:
    assert parse(line.split()) == Options(vmcores=("vmcore",), dumpfiles=("dumpfile",), codec="lzo", dump_level=31)


def test_operands_after_two_dashes_may_look_like_options() -> None:
    options = parse(["-c", "--", "-d", "--json"])
    assert (options.vmcores, options.dumpfiles, options.codec) == (("-d",), ("--json",), "zlib")


@pytest.mark.parametrize("argument", ["--num-threads=3", "--num-threads 3", "--num-th=3", "--nu 3"])
def test_long_options_may_be_cut_to_a_unique_prefix(argument: str) -> None:
    assert parse([*argument.split(), *FILES]).num_threads == 3


def test_an_option_takes_the_next_argument_whatever_it_looks_like() -> None:
    assert parse(["--work-dir", "-d", *FILES]).work_dir == "-d"
    assert parse(["--work-dir", "", *FILES]).work_dir == ""


@pytest.mark.parametrize(("flag", "codec"), [("-c", "zlib"), ("-l", "lzo"), ("-p", "snappy"), ("-z", "zstd")])
def test_codecs(flag: str, codec: str) -> None:
    assert parse([flag, *FILES]).codec == codec
    assert f"{codec} compression" in refusal("-E", flag, *FILES)


def test_the_lines_of_the_kdump_services() -> None:
    fedora = parse("-l --message-level 7 -d 31 --num-threads=8 /proc/vmcore /var/crash/vmcore-incomplete".split())
    assert (fedora.codec, fedora.dump_level, fedora.message_level, fedora.num_threads) == ("lzo", 31, 7, 8)
    initramfs = parse("--check-params -l --message-level 7 -d 31 vmcore dumpfile".split())
    assert initramfs.check_params
    debian = parse("-c -d 31 /proc/vmcore /var/crash/dump-incomplete".split())
    assert (debian.codec, debian.dump_level) == ("zlib", 31)


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("", 7),
        ("-D", 15),
        ("--show-stats", 23),
        ("--message-level 0", 0),
        ("--message-level 1 -D --show-stats", 25),
        ("-D --show-stats --check-params", 7),  # a check prints what is wrong and nothing else
        ("--message-level 0 --check-params", 7),
    ],
)
def test_message_level_in_force(line: str, level: int) -> None:
    assert parse([*line.split(), *FILES]).message_level == level


@pytest.mark.parametrize(
    ("flag", "field", "low", "high"),
    [
        ("-d", "dump_level", 0, 31),
        ("--message-level", "message_level", 0, 31),
        ("-b", "block_order", 0, 16),
        ("--num-threads", "num_threads", 0, 4096),
    ],
)
def test_numbers_have_limits(flag: str, field: str, low: int, high: int) -> None:
    assert getattr(parse([flag, str(low), *FILES]), field) == low
    assert getattr(parse([flag, str(high), *FILES]), field) == high
    for wrong in (str(low - 1), str(high + 1), "", "x", "1x", "0x1f", "1_0", "٣", "9" * 5000):
        assert flag in refusal(flag, wrong, *FILES)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "VMCORE and DUMPFILE"),
        ("vmcore", "DUMPFILE"),
        ("-R dumpfile second", "too many arguments"),
        ("-R --dry-run", "DUMPFILE"),
        ("--lz4 vmcore dumpfile", "--lz4"),
        ("--no-such-option vmcore dumpfile", "--no-such-option"),
        ("-d 11,32 vmcore dumpfile", "not a whole number from 0 to 31"),
        ("-d 11, vmcore dumpfile", "not a whole number from 0 to 31"),
        ("-L 0 vmcore dumpfile", "not a size"),
        ("-L 5X vmcore dumpfile", "not a size"),
        ("--split vmcore dumpfile", "two DUMPFILEs"),
        ("--split -E vmcore dumpfile second", "only kdump-compressed dumps are split"),
        ("--reassemble part dumpfile", "two parts"),
        ("--reassemble -l part1 part2 dumpfile", "copies pages as they are"),
        ("-Z vmcore dumpfile", "-Z"),
        ("--nonsense vmcore dumpfile", "--nonsense"),
        ("--d vmcore dumpfile", "--d"),
        ("--dry-run=yes vmcore dumpfile", "--dry-run"),
        ("vmcore dumpfile -d", "-d"),
        ("--json vmcore dumpfile", "--show-stats"),
        ("--zlib-engine isal -l vmcore dumpfile", "-c"),
        ("--zlib-engine other -c vmcore dumpfile", "other"),
        ("-l vmcore -", "give -F"),
        ("-l vmcore https://host/key", "only read from"),
        ("fleet vmcore --to http://host/key", "only read from"),
        ("--check-config vmcore", "--check-config without --config"),
        ("--config a.conf --vtop 0x1000 vmcore", "nothing is written that it could erase"),
        ("--extension a.py --mem-usage vmcore", "nothing is written that it could decide"),
        ("--extension a.py --reassemble part1 part2 dumpfile", "copies pages as they are"),
        ("--dry-rn vmcore dumpfile", "did you mean --dry-run?"),
    ],
)
@pytest.mark.parametrize("check", [[], ["--check-params"]])
def test_wrong_lines_are_refused_in_one_line(line: str, named: str, check: list[str]) -> None:
    assert named in refusal(*check, *line.split())


def test_a_cyclic_buffer_of_nothing_is_as_good_as_none() -> None:
    assert parse(["--cyclic-buffer", "0", *FILES]).cyclic_buffer_kib is None
    assert parse(["--cyclic-buffer", "1024", *FILES]).cyclic_buffer_kib == 1024


def test_files_of_other_forms() -> None:
    assert parse(["-F", "vmcore"]).vmcores == ("vmcore",)
    assert parse(["-F", "part1", "part2"]).vmcores == ("part1", "part2")
    assert parse(["-R", "dumpfile"]).dumpfiles == ("dumpfile",)
    split = parse(["--split", "vmcore", "a", "b", "c"])
    assert (split.vmcores, split.dumpfiles) == (("vmcore",), ("a", "b", "c"))
    joined = parse(["--reassemble", "a", "b", "dumpfile"])
    assert (joined.vmcores, joined.dumpfiles) == (("a", "b"), ("dumpfile",))


def test_levels_and_limits() -> None:
    options = parse(["-d", "11,31", "-L", "1G", *FILES])
    assert (options.dump_level, options.retry_levels, options.limit_nbytes) == (11, (31,), 1 << 30)
    sizes = {"4096": 4096, "0x10k": 16384, "010": 8, "08": 8, "2m": 2 << 20, "3T": 3 << 40}
    assert {text: parse(["-L", text, *FILES]).limit_nbytes for text in sizes} == sizes


def test_a_dry_run_needs_no_dumpfile() -> None:
    assert parse(["--dry-run", "vmcore"]).dumpfiles == ()
    assert parse(["--dry-run", *FILES]).dumpfiles == ("dumpfile",)


# The options of makedumpfile 1.7.9 that are not npdump's, from its manual page, with the lines that it would accept.
MAKEDUMPFILE_ONLY = [
    "--eppic macro vmcore dumpfile",
]


@pytest.mark.parametrize("line", MAKEDUMPFILE_ONLY)
def test_options_that_npdump_does_not_have_are_refused_by_name(line: str) -> None:
    text = refusal(*line.split())
    assert "is not supported by npdump" in text
    assert any(f"option {option.flag} " in text for option in UNSUPPORTED_OPTIONS)


def test_every_refused_option_is_tried_above() -> None:
    tried = {
        word.split("=")[0][: None if word.startswith("--") else 2]
        for line in MAKEDUMPFILE_ONLY
        for word in line.split()
    }
    assert {option.flag for option in UNSUPPORTED_OPTIONS} <= tried


def test_help_and_version_come_before_the_rules() -> None:
    assert parse(["-h"]).show_help
    assert parse(["--help", "-x", "vmlinux"]).show_help
    assert parse(["-v", "--check-params"]).show_version
    assert parse(["-E", "-c", "--version"]).show_version


def test_help_shows_each_option_once_and_names_the_refused_ones() -> None:
    options, refused = build_parser().format_help().split("that are refused:")
    for flag in ("-d LEVEL", "-c ", "-l ", "-p ", "-z ", "-E ", "-f ", "-D ", "--check-params", "--num-threads N"):
        assert options.count(f"  {flag}") == 1
    for option in UNSUPPORTED_OPTIONS:
        assert option.flag in refused.replace(".", "").replace(",", "").split()
        assert f"  {option.flag} " not in options


def test_parsing_needs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; from npdump.cli.parsing import parse; parse(['-cd31', 'a', 'b'])\n"
        "import npdump.cli.report, npdump.cli.summary, npdump.errors\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('numpy', 'isal', 'lzo', 'cramjam', 'zstandard', 'lz4')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_man_page_is_built_with_the_standard_library_alone() -> None:
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from npdump.cli.flags import build_parser\n"
    code += "print(build_parser().prog)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "npdump\n"


@pytest.mark.parametrize(
    ("line", "command", "expected"),
    [
        (
            "-x vmlinux vmcore dumpfile",
            "filter",
            {"vmlinux": "vmlinux", "vmcores": ("vmcore",), "dumpfiles": ("dumpfile",)},
        ),
        ("-lxvmlinux vmcore dumpfile", "filter", {"vmlinux": "vmlinux", "codec": "lzo"}),
        ("-i vmcoreinfo vmcore dumpfile", "filter", {"vmcoreinfo": "vmcoreinfo"}),
        ("-g vmcoreinfo -x vmlinux", "make_vmcoreinfo", {"new_vmcoreinfo": "vmcoreinfo", "vmlinux": "vmlinux"}),
        ("--dump-dmesg vmcore log", "dmesg", {"vmcores": ("vmcore",), "dumpfiles": ("log",), "partial_dmesg": False}),
        ("--dump-dmesg --partial-dmesg vmcore log", "dmesg", {"dumpfiles": ("log",), "partial_dmesg": True}),
        ("--partial-dmesg vmcore", "dmesg", {"dumpfiles": (), "partial_dmesg": True}),
        ("--dump-dmesg part1 part2 log", "dmesg", {"vmcores": ("part1", "part2"), "dumpfiles": ("log",)}),
        ("--mem-usage /proc/kcore", "mem_usage", {"vmcores": ("/proc/kcore",)}),
        ("--vtop 0xffffffff81000000 vmcore", "vtop", {"vtop": 0xFFFFFFFF81000000}),
        ("--vtop 4096 vmcore", "vtop", {"vtop": 4096}),
        ("--vtop 010 vmcore", "vtop", {"vtop": 8}),
        ("info vmcore", "info", {"vmcores": ("vmcore",)}),
        ("info --json vmcore", "info", {"json": True}),
        ("info part1 part2 part3", "info", {"vmcores": ("part1", "part2", "part3")}),
        ("--mem-usage part1 part2", "mem_usage", {"vmcores": ("part1", "part2")}),
        ("-d31 info dumpfile", "filter", {"vmcores": ("info",), "dumpfiles": ("dumpfile",)}),
        ("./info dumpfile", "filter", {"vmcores": ("./info",)}),
        ("explain vmcore 0x1000", "explain", {"vmcores": ("vmcore",), "pages": ("0x1000",)}),
        ("explain vmcore 1 pfn:2", "explain", {"vmcores": ("vmcore",), "pages": ("1", "pfn:2")}),
        ("completion bash", "completion", {"shells": ("bash",)}),
    ],
)
def test_commands(line: str, command: str, expected: dict[str, object]) -> None:
    options = parse(line.split())
    assert options.command == command
    assert {name: getattr(options, name) for name in expected} == expected


@pytest.mark.parametrize(
    "line",
    [
        "info",
        "explain vmcore",
        "completion",
        "completion --json bash",
        "-g vmcoreinfo",
        "-g vmcoreinfo -x vmlinux vmcore",
        "-x vmlinux -i vmcoreinfo vmcore dumpfile",
        "--dump-dmesg",
        "--dump-dmesg --mem-usage vmcore",
        "info --vtop 1 vmcore",
        "--vtop 0x vmcore",
        "--vtop 0x1_0 vmcore",
        "--vtop 0x10000000000000000 vmcore",
    ],
)
def test_commands_that_make_no_sense(line: str) -> None:
    assert refusal(*line.split())


def test_disks_of_a_set_are_inputs() -> None:
    options = parse(["--diskset=disk1", "-l", "--diskset", "disk2", "dumpfile"])
    assert (options.vmcores, options.dumpfiles) == (("disk1", "disk2"), ("dumpfile",))
