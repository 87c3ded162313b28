# SPDX-License-Identifier: GPL-2.0-or-later
"""What a dump must not have, and what it must."""

from npdump.cli.commands import MAKE_DUMPS
from npdump.cli.flags._declare import Rule, flag

TITLE = "erasing, and rules of your own"

FLAGS = (
    flag(
        "--config",
        metavar="FILE",
        help="overwrite kernel data that FILE names (makedumpfile.conf(5)) with the letter X; what VMCORE does not "
        "tell of symbols and types is taken from -x VMLINUX; a command that finds nothing is said, and with --strict "
        "an error",
    ),
    flag(
        "--check-config",
        action="store_true",
        help="with --config, write nothing, but say for each command of FILE what it would erase of VMCORE, and how "
        "many bytes",
    ),
    flag(
        "--extension",
        dest="extensions",
        metavar="FILE",
        action="append",
        default=[],
        help="ask the Python file FILE, or the installed extension of that name, which pages DUMPFILE has and what is "
        "erased of them; may be given several times; an error in one is said and its rule skipped, and with --strict "
        "an error",
    ),
    flag(
        "--erase-log",
        command="redact",
        action="store_true",
        help="erase the text of the kernel's log, too",
    ),
)

RULES = (
    Rule(
        lambda o: o.command == "redact" and (o.dump_level or o.retry_levels),
        "npdump redact with -d: its dump level is 31",
    ),
    Rule(
        lambda o: o.command == "redact" and o.reassemble,
        "npdump redact with --reassemble: name the parts, and give it DUMPFILE",
    ),
    Rule(
        lambda o: o.command == "redact" and o.json and o.flatten,
        "npdump redact with --json and -F: the standard output carries one of them",
    ),
    Rule(
        lambda o: o.command == "check_config" and o.config is None,
        "--check-config without --config FILE: there is nothing to check",
    ),
    Rule(
        lambda o: o.config is not None and o.command not in (*MAKE_DUMPS, "check_config"),
        "--config: nothing is written that it could erase something of",
    ),
    Rule(
        lambda o: o.extensions and o.command not in MAKE_DUMPS,
        "--extension: nothing is written that it could decide about",
    ),
    Rule(
        lambda o: (o.config is not None or o.extensions) and o.reassemble,
        "--reassemble with --config or --extension: it copies pages as they are; filter the parts",
    ),
)
