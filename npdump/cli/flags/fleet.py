# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``npdump fleet`` can be told."""

import argparse
from typing import TYPE_CHECKING

from npdump.cli.flags._declare import Rule, flag, integer, size

if TYPE_CHECKING:
    from npdump.cli.options import Options

ASKED = ("info", "stats", "signature", "filter")
"""As `npdump.fleet.work.ASKED`."""

MAX_JOBS = 4096
MAX_SECONDS = 10_000_000

TITLE = "many dumps at once"


def asked(text: str) -> tuple[str, ...]:
    """Read a list of questions; they are asked in an order of their own."""
    names = text.split(",")
    for name in names:
        if name not in ASKED:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(ASKED)}")
    return tuple(name for name in ASKED if name in names)


def _has_workers(options: "Options") -> bool:
    values = (options.jobs, options.scheduler, options.time_limit_seconds, options.memory_limit_nbytes)
    return any(value is not None for value in values)


FLAGS = (
    flag(
        "--do",
        command="fleet",
        dest="asked",
        metavar="LIST",
        type=asked,
        help="with fleet, what is done with each dump, separated by commas: info, stats (bytes by kind of page), "
        "signature (of the crash), filter (a small dump, by -d, -c, -l, -p, -z and -E); by default the first three, "
        "and filter with --to",
    ),
    flag(
        "--to",
        command="fleet",
        dest="output_folder",
        metavar="DIR",
        help="with fleet, the folder, or the URL, where the small dumps go, under the names that the dumps have below "
        "SOURCE",
    ),
    flag(
        "--catalogue",
        command="fleet",
        metavar="FILE",
        help="with fleet, the SQLite file for the answers; by default fleet.sqlite in the folder of --to, or here",
    ),
    flag(
        "--jobs",
        metavar="N",
        type=integer(1, MAX_JOBS),
        help="with fleet, how many dumps are worked on at a time; with --split, how many parts; by default as many as "
        "there are CPUs",
    ),
    flag(
        "--scheduler",
        metavar="ADDRESS",
        help="with fleet or --split, have the workers of the Dask cluster do it whose scheduler is at ADDRESS, as "
        "tcp://host:8786",
    ),
    flag(
        "--limit-time",
        dest="time_limit_seconds",
        metavar="SECONDS",
        type=integer(1, MAX_SECONDS),
        help="with fleet, give a dump up that takes longer; with --split, a part",
    ),
    flag(
        "--limit-memory",
        dest="memory_limit_nbytes",
        metavar="SIZE",
        type=size,
        help="with fleet, give a dump up that needs more memory, by what a process may write to (RLIMIT_DATA); the "
        "letter K, M, G or T multiplies",
    ),
    flag(
        "--again",
        command="fleet",
        action="store_true",
        help="with fleet, begin those again that failed; by default they are left as they are",
    ),
)

RULES = (
    Rule(
        lambda o: o.command == "fleet" and "filter" in (o.asked or ()) and o.output_folder is None,
        "--do filter without --to: there is no place for the small dumps",
    ),
    Rule(
        lambda o: o.command == "fleet" and o.asked and "filter" not in o.asked and o.output_folder is not None,
        "--to without filter in --do: there is nothing to put there",
    ),
    Rule(
        lambda o: _has_workers(o) and o.command != "fleet" and not o.split,
        "--jobs, --scheduler, --limit-time or --limit-memory: belong to npdump fleet and to --split",
    ),
    Rule(
        lambda o: _has_workers(o) and o.split and (o.limit_nbytes is not None or o.retry_levels),
        "--split by several workers with -L or several dump levels: no part knows how large the others get",
    ),
    Rule(
        lambda o: o.scheduler is not None and o.jobs is not None,
        "--jobs with --scheduler: the cluster's workers are as many as there are",
    ),
    Rule(
        lambda o: o.command == "fleet" and o.retry_levels,
        "fleet with several dump levels: give one",
    ),
    Rule(
        lambda o: o.command == "fleet" and (o.codec != "raw" or o.format != "kdump") and o.output_folder is None,
        "fleet with -c, -l, -p, -z or -E and without --to: no dump is made",
    ),
)
