# SPDX-License-Identifier: GPL-2.0-or-later
"""What npdump prints."""

from npdump.cli.commands import COMMANDS, FILTER
from npdump.cli.flags._declare import Rule, flag, integer
from npdump.cli.options import DEFAULT_MESSAGE_LEVEL

MAX_MESSAGE_LEVEL = 31

TITLE = "messages"

FLAGS = (
    flag(
        "--message-level",
        metavar="LEVEL",
        type=integer(0, MAX_MESSAGE_LEVEL),
        default=DEFAULT_MESSAGE_LEVEL,
        help="what to print; LEVEL is the sum of 1 (progress), 2 (common messages), 4 (errors), 8 (debugging) and "
        "16 (report); the default is 7",
    ),
    flag("-D", dest="debug", action="store_true", help="print debugging messages too"),
    flag("--show-stats", action="store_true", help="print the report: how many pages of each type were left out"),
    flag("--json", action="store_true", help="print the report of --show-stats, or the answer to a question, as JSON"),
    flag(
        "--check-params",
        action="store_true",
        help="check the command line, open no file, and exit: 0 if it is right, 1 if not",
    ),
    flag(
        "-v", "--version", dest="show_version", action="store_true", help="print the version and the codecs, and exit"
    ),
    flag("-h", "--help", dest="show_help", action="store_true", help="print this text, and exit"),
)

RULES = (
    Rule(
        lambda o: o.json and o.command == FILTER and not o.show_stats,
        "--json without --show-stats: there is no report to print as JSON",
    ),
    Rule(
        lambda o: o.json and not COMMANDS[o.command].has_json,
        "--json: this command has no answer to print as JSON",
    ),
)
