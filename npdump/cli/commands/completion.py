# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump completion``: what a shell needs to complete npdump's command line, made from its declaration."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, NamedTuple

from npdump.cli.commands import SUBCOMMANDS
from npdump.cli.flags import build_parser
from npdump.errors import UsageError

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["run", "script"]


class _Option(NamedTuple):
    """An option as shells see it; ``metavar`` is None if it takes no value."""

    flags: list[str]
    metavar: str | None
    choices: list[str]
    text: str


def run(options: Options, report: Reporter) -> None:
    """Print the script for a shell."""
    (shell,) = options.shells
    report.answer(script(shell))


def script(shell: str) -> str:
    """Return the script for a shell; packages install them, made while they are built.

    Raises
    ------
    UsageError
        If it's no shell that npdump knows.
    """
    makers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    make = makers.get(shell)
    if make is None:
        raise UsageError(f"{shell}: no such shell: completion is for {', '.join(makers)}")
    return make(_options())


def _options() -> list[_Option]:
    found = []
    for action in build_parser()._actions:
        if not action.option_strings or action.help == argparse.SUPPRESS:
            continue
        metavar = None if action.nargs == 0 else str(action.metavar or action.dest.upper())
        text = (action.help or "").partition(";")[0].partition(":")[0]
        choices = [str(choice) for choice in action.choices or ()]
        found.append(_Option(list(action.option_strings), metavar, choices, text))
    return found


def _bash(options: list[_Option]) -> str:
    flags = " ".join(flag for option in options for flag in option.flags)
    cases = "".join(
        f'        {"|".join(option.flags)}) COMPREPLY=($(compgen {_bash_values(option)} -- "$word")); return ;;\n'
        for option in options
        if option.metavar
    )
    return f"""# bash completion of npdump; made by "npdump completion bash"
_npdump() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    COMPREPLY=()
    case $before in
        completion) COMPREPLY=($(compgen -W 'bash zsh fish' -- "$word")); return ;;
{cases}    esac
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W {shlex.quote(flags)} -- "$word"))
    else
        COMPREPLY=($(compgen -f -- "$word"))
        ((COMP_CWORD == 1)) && COMPREPLY+=($(compgen -W {shlex.quote(" ".join(SUBCOMMANDS))} -- "$word"))
    fi
}}
complete -o filenames -F _npdump npdump
"""


def _bash_values(option: _Option) -> str:
    if option.choices:
        return f"-W {shlex.quote(' '.join(option.choices))}"
    return "-d" if option.metavar == "DIR" else "-f"


def _zsh(options: list[_Option]) -> str:
    lines = []
    for option in options:
        text = option.text.replace("[", "(").replace("]", ")")
        value = ""
        if option.metavar:
            values = f"({' '.join(option.choices)})" if option.choices else "_files"
            value = f":{option.metavar}:{values}"
        lines += [f"    {shlex.quote(f'{flag}[{text}]{value}')} \\\n" for flag in option.flags]
    return f"""#compdef npdump
# zsh completion of npdump; made by "npdump completion zsh"
_arguments -s \\
{"".join(lines)}    '1:file or command:{{_files; compadd {" ".join(SUBCOMMANDS)}}}' \\
    '*:file:_files'
"""


def _fish(options: list[_Option]) -> str:
    lines = ['# fish completion of npdump; made by "npdump completion fish"']
    first = "__fish_is_first_token"
    lines.append(f"complete -c npdump -n {first} -a {shlex.quote(' '.join(SUBCOMMANDS))}")
    for option in options:
        names = [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags]
        value = " -r" if option.metavar else ""
        if option.choices:
            value += f" -x -a {shlex.quote(' '.join(option.choices))}"
        lines.append(f"complete -c npdump {' '.join(names)}{value} -d {shlex.quote(option.text)}")
    return "\n".join(lines)
