# SPDX-License-Identifier: GPL-2.0-or-later
"""What commands that makedumpfile does not have can be told."""

import argparse
import re

from npdump.cli.flags._declare import Rule, flag

PARTS_OF_MEMORY = ("all", "node", "zone", "section", "order", "level")
MAP_LAYOUTS = ("hilbert", "rows")
COMPARED = ("memory", "lost", "extra", "changed", "stored", "headers", "notes", "vmcoreinfo")
"""As `npdump.compare.AREAS`."""

TITLE = "looking at dumps, and comparing them"


def allowed(text: str) -> tuple[tuple[str, int], ...]:
    """Read a list of areas and numbers, as ``lost=0,extra=100``."""
    found = []
    for item in text.split(","):
        name, _, number = item.partition("=")
        if name not in COMPARED or not re.fullmatch("[0-9]{1,18}", number):
            raise argparse.ArgumentTypeError(f"{item!r} is none of {', '.join(COMPARED)}, with = and a number")
        found.append((name, int(number)))
    return tuple(found)


FLAGS = (
    flag(
        "--verbose",
        command="info",
        action="store_true",
        help="with info, list the segments (PT_LOAD) and VMCOREINFO texts too",
    ),
    flag(
        "--by",
        command="stats",
        choices=PARTS_OF_MEMORY,
        metavar="PART",
        help="with stats, count apart by node, zone, section, or order (of blocks); level: what each dump level keeps",
    ),
    flag("--csv", command="stats", action="store_true", help="with stats, print numbers of pages, separated by commas"),
    flag(
        "--layout",
        command="map",
        choices=MAP_LAYOUTS,
        metavar="LAYOUT",
        help="with map, lay memory out along hilbert curves, where what is near stays near (the default), or in rows",
    ),
    flag(
        "--bytes",
        command="compare",
        dest="compares_stored",
        action="store_true",
        help="with compare, compare the compressed bytes of pages too",
    ),
    flag(
        "--allow",
        command="compare",
        dest="allowed",
        metavar="LIST",
        type=allowed,
        help="with compare, differences that are no difference, as lost=0,extra=100: pages of memory, lost, extra, "
        "changed, stored; or entries of headers, notes, vmcoreinfo",
    ),
    flag("--junit", command="compare", metavar="FILE", help="with compare, write the result to FILE as JUnit XML too"),
)

RULES = (
    Rule(
        lambda o: o.json and o.csv,
        "--json with --csv: give one",
    ),
    Rule(
        lambda o: o.command == "estimate" and (o.format != "kdump" or o.retry_levels),
        "estimate: is of one level, in kdump-compressed format: without -E",
    ),
    Rule(
        lambda o: o.command == "compare" and len(o.vmcores) < 2,
        "compare: two VMCOREs at least are needed",
    ),
)
