# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``--help`` prints: all of the command line, or what concerns one command."""

import argparse
from typing import NamedTuple

from npdump.cli.flags import build_parser

__all__ = ["help_text"]

_READING = (
    "-x",
    "-i",
    "--identity",
    "--work-dir",
    "--non-mmap",
    "--machine",
    "--max-unpacked",
    "--message-level",
    "-D",
    "--help",
)


class Help(NamedTuple):
    """What ``--help`` says of a command that has a help of its own: usage, description, and the options shown."""

    usage: str
    description: str
    flags: tuple[str, ...] = ("--json", *_READING)


HELP = {
    "info": Help(
        "npdump info [OPTION]... VMCORE...",
        "Say of which kernel and machine VMCORE is, when and why it crashed, what memory is in it, and what is "
        "missing. Several files are the parts of a split dump.",
        ("--verbose", "--json", *_READING),
    ),
    "explain": Help(
        "npdump explain [OPTION]... VMCORE PAGE...",
        "Say what pages are, by which fields of their struct page, and at which dump levels they are left out. PAGE is "
        "a page frame number, a physical address, or a kernel virtual address, in C notation; a range of page frames, "
        "as 0x1000-0x100f; or a symbol, as init_task or init_task+0x40. A number below the "
        "number of page frames is a page frame, one that can be a kernel address is that, and any other is a physical "
        "address; pfn:, paddr: or vaddr: before it says which, as in vaddr:0xffffffff81000000.",
    ),
    "mem_usage": Help(
        "npdump --mem-usage [OPTION]... VMCORE...",
        "Show what the pages of VMCORE are used for, and so what each dump level would save; VMCORE is /proc/kcore for "
        "the running kernel (root may read it). A page counts once, as the kind that would leave it out at level 31; "
        "the rows add up to the pages that are in VMCORE.",
    ),
    "dmesg": Help(
        "npdump --dump-dmesg | --partial-dmesg [OPTION]... VMCORE... [LOGFILE]",
        "Write the kernel log of VMCORE to LOGFILE, or to the standard output if LOGFILE is not given. A file that "
        "holds a dump is taken for a part of VMCORE, never for LOGFILE.",
        ("--dump-dmesg", "--partial-dmesg", "-f", "--json", *_READING),
    ),
    "vtop": Help(
        "npdump --vtop ADDRESS [OPTION]... VMCORE...",
        "Translate a kernel virtual address, in C notation, to the physical address.",
    ),
    "stats": Help(
        "npdump stats [OPTION]... VMCORE...",
        "Count what the pages of VMCORE are used for, in all or part by part.",
        ("--by", "--csv", "--json", *_READING),
    ),
    "map": Help(
        "npdump map [OPTION]... VMCORE... PICTURE",
        "Draw a map of physical memory; the name of PICTURE ends in .png, .svg or .pdf.",
        ("--layout", "-f", *_READING),
    ),
    "report": Help(
        "npdump report [OPTION]... VMCORE... PAGE.html",
        "Write one page of HTML about a crash: the reason and its call trace, the log, memory in numbers and as a map, "
        "the machine, and what is missing. The page fetches nothing and has no script.",
        ("-f", *_READING),
    ),
    "estimate": Help(
        "npdump estimate [-d LEVEL] [-c|-l|-p|-z] [OPTION]... VMCORE...",
        "Say how large a kdump-compressed dump of VMCORE would become, and how much CPU time making it would take, by "
        "the struct pages, a few words of each page, and whole pages of a sample: at most 3 % of memory is read. "
        "VMCORE is /proc/kcore for the running kernel (root may read it).",
        ("-d", "-c", "-l", "-p", "-z", "--codec-level", "--zlib-engine", "--no-share", "--json", *_READING),
    ),
    "skeleton": Help(
        "npdump skeleton [OPTION]... VMCORE... > REFERENCE.json",
        "Print counts and digests of VMCORE as JSON: npdump compare REFERENCE.json VMCORE compares later dumps with "
        "it, so that no dump need be stored.",
        _READING,
    ),
    "check": Help(
        "npdump check [OPTION]... VMCORE...",
        "Say whether VMCORE is sound: whole, its headers consistent, every page readable, its kernel's memory map, "
        "zones and log there; and whether crash, drgn, gdb and libkdumpfile will open it. The exit code is 0 if VMCORE "
        "is sound, else 1.",
        ("--json", *_READING),
    ),
    "redact": Help(
        "npdump redact [OPTION]... VMCORE... DUMPFILE",
        "Make a DUMPFILE that can be given away: at dump level 31, and without what keys, encrypted disks, ciphers, "
        "terminals, pipes and sockets hold, and what free memory, unused parts of stacks and saved vector registers "
        "still hold. Its tasks, backtraces and log are as before. What each rule erased is printed; one that could not "
        "be carried out is named on the standard error, with --strict an error. --config and --extension add to it.",
        (
            "--erase-log",
            "--strict",
            "--config",
            "--extension",
            "--encrypt-to",
            "-c",
            "-l",
            "-p",
            "-z",
            "-E",
            "-F",
            "--split",
            "-L",
            "-f",
            "--dry-run",
            "--num-threads",
            "--json",
            *_READING,
        ),
    ),
    "compare": Help(
        "npdump compare [OPTION]... VMCORE VMCORE...",
        "Compare the first dump with each other one, page by page; parts of a split dump follow each other. The exit "
        "code is 0 if they are the same, 1 if one is different, and 2 if they cannot be compared.",
        ("--bytes", "--allow", "--junit", "--json", *_READING),
    ),
    "fleet": Help(
        "npdump fleet [OPTION]... SOURCE...\n       npdump fleet report CATALOGUE PAGE.html|TABLE.parquet",
        "Ask the same of many dumps, and make small ones of them, on all CPUs of this machine or on a Dask cluster. "
        "SOURCE is a dump, a folder, a glob in quotes, @FILE with one of these a line, or a URL; one that ends with / "
        "stands for all objects below it. The answers are rows of an SQLite file, the catalogue; the same command "
        "started again goes on where it was. A damaged dump is named and stops no other one; the exit code is 1 if "
        "there was one. fleet report makes a page of HTML, or a Parquet file, of a catalogue.",
        (
            "--do",
            "--to",
            "--catalogue",
            "--jobs",
            "--scheduler",
            "--limit-time",
            "--limit-memory",
            "--again",
            "-d",
            "-c",
            "-l",
            "-p",
            "-z",
            "-E",
            "-f",
            "--json",
            *_READING,
        ),
    ),
    "completion": Help(
        "npdump completion bash|zsh|fish",
        'Print a completion script: put it where the shell looks for such, or run eval "$(npdump completion bash)".',
        ("--help",),
    ),
    "collector": Help(
        "npdump collector check | files | install FOLDER",
        "Prepare a capture kernel. check says whether all that npdump needs there is there, how large it is and how "
        "much memory to reserve; the exit code is 0 if it is, else 1. files lists the files that a run opens. install "
        "copies them into FOLDER, the top of an initramfs that is being made, with Python modules as byte code, and "
        "makes FOLDER/usr/bin/npdump.",
        ("--help",),
    ),
}
"""By the name of the command; the others share one text."""


def help_text(command: str) -> str:
    """Return what ``--help`` prints: all of the command line, or what concerns one command."""
    parser = build_parser()
    own = HELP.get(command)
    if own is not None:
        parser.usage, parser.description, parser.epilog = own.usage, own.description, None
        for action in parser._actions:
            if not set(action.option_strings) & set(own.flags):
                action.help = argparse.SUPPRESS
    return parser.format_help()
