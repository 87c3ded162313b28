# SPDX-License-Identifier: GPL-2.0-or-later
"""Every option of makedumpfile: it has the same meaning, or is refused with what to use instead."""

from __future__ import annotations

import pytest

from npdump.cli.flags import build_parser
from npdump.cli.options import Options
from npdump.cli.parsing import parse
from npdump.errors import UsageError

#: makedumpfile head (b7587f1, 1.7.9++): its manual page and getopt_long(3) tables; a colon or "=" takes a value.
LETTERS = "b:cDd:eEFfg:hi:lL:pRvXx:z"
NAMES = """split reassemble xen-syms= xen-vmcoreinfo= xen_phys_start= message-level= vtop= dump-dmesg partial-dmesg
config= help diskset= cyclic-buffer= eppic= non-mmap mem-usage splitblock-size= work-dir= num-threads= check-params
dry-run show-stats extension=""".split()

#: By option: a line of the manual's, and what of `Options` it sets.
SAME = {
    "-b": ("-b 5 vmcore dumpfile", {"block_order": 5}),
    "-c": ("-c vmcore dumpfile", {"codec": "zlib"}),
    "-l": ("-l vmcore dumpfile", {"codec": "lzo"}),
    "-p": ("-p vmcore dumpfile", {"codec": "snappy"}),
    "-z": ("-z vmcore dumpfile", {"codec": "zstd"}),
    "-d": ("-d 15,31 vmcore dumpfile", {"dump_level": 15, "retry_levels": (31,)}),
    "-L": ("-L 4096M vmcore dumpfile", {"limit_nbytes": 4 << 30}),
    "-E": ("-E -d 31 vmcore dumpfile", {"format": "elf", "dump_level": 31}),
    "-f": ("-f vmcore dumpfile", {"force": True}),
    "-x": ("-d 31 -x vmlinux vmcore dumpfile", {"vmlinux": "vmlinux", "dump_level": 31}),
    "-i": ("-d 31 -i vmcoreinfo vmcore dumpfile", {"vmcoreinfo": "vmcoreinfo", "dump_level": 31}),
    "-g": (
        "-g vmcoreinfo -x vmlinux",
        {
            "command": "make_vmcoreinfo",
            "new_vmcoreinfo": "vmcoreinfo",
            "vmlinux": "vmlinux",
            "vmcores": (),
            "dumpfiles": (),
        },
    ),
    "-F": ("-F -c -d 31 vmcore", {"flatten": True, "codec": "zlib", "dump_level": 31, "dumpfiles": ()}),
    "-R": ("-R dumpfile", {"command": "rearrange", "vmcores": ()}),
    "-X": ("-E -X vmcore dumpfile", {"format": "elf", "drop_guests": True}),
    "-e": ("-e --work-dir /tmp vmcore dumpfile", {"drop_memmap": True, "work_dir": "/tmp"}),
    "-D": ("-D vmcore dumpfile", {"debug": True, "message_level": 15}),
    "-h": ("-h", {"show_help": True, "vmcores": (), "dumpfiles": ()}),
    "-v": ("-v", {"show_version": True, "vmcores": (), "dumpfiles": ()}),
    "--help": ("--help", {"show_help": True, "vmcores": (), "dumpfiles": ()}),
    "--split": (
        "--split -d 31 vmcore dumpfile dumpfile2",
        {"split": True, "dump_level": 31, "dumpfiles": ("dumpfile", "dumpfile2")},
    ),
    "--splitblock-size": (
        "--splitblock-size 1024 --split vmcore dumpfile dumpfile2",
        {"split": True, "splitblock_kib": 1024, "dumpfiles": ("dumpfile", "dumpfile2")},
    ),
    "--reassemble": ("--reassemble vmcore part2 dumpfile", {"reassemble": True, "vmcores": ("vmcore", "part2")}),
    "--num-threads": ("--num-threads 4 vmcore dumpfile", {"num_threads": 4}),
    "--cyclic-buffer": ("--cyclic-buffer 1024 -d 31 vmcore dumpfile", {"cyclic_buffer_kib": 1024, "dump_level": 31}),
    "--work-dir": ("--work-dir /tmp vmcore dumpfile", {"work_dir": "/tmp"}),
    "--non-mmap": ("-d 31 --non-mmap vmcore dumpfile", {"non_mmap": True, "dump_level": 31}),
    "--xen-syms": ("-E --xen-syms xen-syms vmcore dumpfile", {"format": "elf", "xen_syms": "xen-syms"}),
    "--xen-vmcoreinfo": ("-E --xen-vmcoreinfo text vmcore dumpfile", {"format": "elf", "xen_vmcoreinfo": "text"}),
    "--xen_phys_start": (
        "-E -X --xen_phys_start 0xcee00000 vmcore dumpfile",
        {"format": "elf", "drop_guests": True, "xen_phys_start": 0xCEE00000},
    ),
    "--message-level": ("--message-level 31 vmcore dumpfile", {"message_level": 31}),
    "--vtop": ("--vtop 0xffffffff80000000 vmcore", {"command": "vtop", "vtop": 0xFFFFFFFF80000000, "dumpfiles": ()}),
    "--dump-dmesg": ("--dump-dmesg vmcore dumpfile", {"command": "dmesg"}),
    "--partial-dmesg": ("--partial-dmesg --dump-dmesg vmcore dumpfile", {"command": "dmesg", "partial_dmesg": True}),
    "--mem-usage": ("--mem-usage vmcore", {"command": "mem_usage", "dumpfiles": ()}),
    "--check-params": ("--check-params vmcore dumpfile", {"check_params": True}),
    "--dry-run": ("--dry-run vmcore dumpfile", {"dry_run": True}),
    "--show-stats": ("--show-stats vmcore dumpfile", {"show_stats": True, "message_level": 23}),
    "--diskset": (
        "-x vmlinux --diskset=vmcore --diskset=vmcore2 dumpfile",
        {"vmlinux": "vmlinux", "vmcores": ("vmcore", "vmcore2")},
    ),
    "--config": ("--config filter.conf -x vmlinux vmcore dumpfile", {"config": "filter.conf", "vmlinux": "vmlinux"}),
    "--extension": ("--extension rules.py vmcore dumpfile", {"extensions": ("rules.py",)}),
}
#: Refused, with what is to be used instead.
REFUSED = {
    "--eppic": ("--eppic macro.c -x vmlinux vmcore dumpfile", "--extension FILE.py"),
}


def _options() -> dict[str, bool]:
    """All options, and whether they take a value."""
    found = {}
    for i, letter in enumerate(LETTERS):
        if letter != ":":
            found[f"-{letter}"] = LETTERS[i + 1 : i + 2] == ":"
    return found | {f"--{name.rstrip('=')}": name.endswith("=") for name in NAMES}


def test_no_option_is_forgotten():
    assert SAME.keys() | REFUSED.keys() == _options().keys()
    assert not SAME.keys() & REFUSED.keys()


def test_options_take_values_where_makedumpfile_s_do():
    actions = {flag: action.nargs != 0 for action in build_parser()._actions for flag in action.option_strings}
    assert {name: actions[name] for name in _options()} == _options()


@pytest.mark.parametrize("option", SAME)
def test_an_option_means_the_same(option):
    line, meaning = SAME[option]
    assert option in line
    plain: dict = {"vmcores": ("vmcore",), "dumpfiles": ("dumpfile",)}
    plain.update(meaning)
    assert parse(line.split()) == Options(**plain)


@pytest.mark.parametrize("option", REFUSED)
def test_an_option_is_refused_with_what_to_use(option):
    line, instead = REFUSED[option]
    with pytest.raises(UsageError) as caught:
        parse(line.split())
    assert option in str(caught.value)
    assert instead in str(caught.value)
