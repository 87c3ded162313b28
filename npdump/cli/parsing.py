# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line read and checked; which options there are is declared in :mod:`npdump.cli.flags`.

Letters, meanings and syntax are makedumpfile(8)'s, hence getopt_long(3)'s: combined letters (``-cd31``), options
anywhere, long options by any unique prefix. :mod:`getopt` splits the arguments by these rules, which argparse does not
follow (it reads the ``x`` of ``-lx`` as an argument of ``-l``, and an option after ``--``); :mod:`argparse` converts
them and holds the texts, from which ``--help`` and the man page are made.
"""

from __future__ import annotations

import getopt
from typing import TYPE_CHECKING

from npdump.cli.commands import COMMANDS, FILTER, MAKE_DUMPS, SUBCOMMANDS, Command
from npdump.cli.flags import GROUPS, build_parser
from npdump.cli.flags._declare import usage_error
from npdump.cli.options import DEFAULT_MESSAGE_LEVEL, MESSAGE_DEBUG, MESSAGE_REPORT, Options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any

__all__ = ["parse"]

_FLATTEN = Command(("vmcores",), 1, "vmcores")
_SPLIT = Command(("vmcores", "dumpfiles"), 2, "dumpfiles")


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
    disks = values.pop("diskset") or []
    if disks and (values["split"] or values["reassemble"]):
        raise usage_error("--diskset with --split or --reassemble: make one dump of the disks first")
    if values["show_help"] or values["show_version"]:
        return Options(values["command"], show_help=values["show_help"], show_version=values["show_version"])
    if refused is not None:
        raise usage_error(f"option {refused.flag} is not supported by npdump: {refused.purpose}")
    values["dump_level"], *values["retry_levels"] = values["dump_level"]
    values["retry_levels"] = tuple(values["retry_levels"])
    values["extensions"] = tuple(values["extensions"])
    values["encrypt_to"] = tuple(values["encrypt_to"])
    command = COMMANDS[values["command"]]
    if values["command"] in MAKE_DUMPS:
        command = _FLATTEN if values["flatten"] else _SPLIT if values["split"] else command
    options = Options(**(values | _sort_operands(command, [*disks, *operands])))
    _check(options)
    return options._replace(
        message_level=_message_level(options),
        cyclic_buffer_kib=options.cyclic_buffer_kib or None,  # makedumpfile takes 0 for "not given"
    )


def _check(options: Options) -> None:
    """Raise for options that are right one by one and wrong together."""
    for group in GROUPS:
        for rule in group.RULES:
            if rule.is_broken(options):
                raise usage_error(rule.text.format(codec=options.codec))
        for flag in group.FLAGS:
            is_given = flag.command is not None and getattr(options, flag.dest) not in (None, False)
            if is_given and options.command != flag.command:
                raise usage_error(f"{flag.names[0]}: belongs to npdump {flag.command}")
    command = COMMANDS[options.command]
    missing = [name for name in command.operands[: command.n_needed] if not getattr(options, name)]
    is_optional = missing == ["dumpfiles"] and options.command in MAKE_DUMPS
    if missing and not (is_optional and (options.dry_run or options.flatten)):
        hint = ": only --dry-run and -F do without" if is_optional else ""
        names = [name[:-1].upper() for name in missing]
        raise usage_error(f"{' and '.join(names)} {_is_or_are(missing)} missing{hint}")


def _is_or_are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _command(word: str | None, values: dict[str, object]) -> str:
    """Tell which command the first argument or the options name."""
    named = {
        "make_vmcoreinfo": values["new_vmcoreinfo"] is not None,
        "dmesg": values.pop("dump_dmesg") or values["partial_dmesg"],
        "mem_usage": values.pop("mem_usage"),
        "check_config": values.pop("check_config"),
        "rearrange": values.pop("rearrange"),
        "vtop": values["vtop"] is not None,
    }
    chosen = [name for name, is_named in named.items() if is_named]
    if word:
        chosen.append(word)
    if len(chosen) > 1:
        raise usage_error(f"each of these asks for something else, give one: {', '.join(chosen)}")
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
        raise usage_error(f"{error}{_did_you_mean(error.opt, [name.rstrip('=') for name in names])}") from None
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


def _sort_operands(command: Command, operands: Sequence[str]) -> dict[str, Any]:
    """Return which operands go to which fields."""
    n_more = max(len(operands) - len(command.operands), 0)
    if n_more and command.several is None:
        expected = " and ".join(f"one {name[:-1].upper()}" for name in command.operands) or "none"
        expected += f" {_is_or_are(command.operands)} expected"
        raise usage_error(f"too many arguments: {' '.join(operands)}: {expected}")
    rest = list(operands)
    fields: dict[str, Any] = {}
    for name in command.operands:
        n = 1 + n_more if name == command.several else 1
        fields[name], rest = tuple(rest[:n]), rest[n:]
    return fields
