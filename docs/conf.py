# SPDX-License-Identifier: GPL-2.0-or-later
"""Sphinx: the pages beside this file, the reference from docstrings and from the parser, pictures by npdump itself.

python -m sphinx -W docs build/docs
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import npdump  # noqa: E402
from npdump.cli.flags import build_parser  # noqa: E402
from tests.harness import distilled_vmcore  # noqa: E402

project = "npdump"
author = "The npdump developers"
version = release = npdump.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.intersphinx", "numpydoc"]
html_theme = "furo"
html_title = f"npdump {version}"
exclude_patterns = ["generated/*.rst"]
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
intersphinx_mapping = {}
suppress_warnings = ["ref.python"]
nitpicky = False

GENERATED = HERE / "generated"


def options_page() -> str:
    """Return the options of the command line as definition lists, one group after the other."""
    parser = build_parser()
    lines: list[str] = []
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help and action.help != "==SUPPRESS=="]
        if not actions:
            continue
        title = (group.title or "options").capitalize()
        lines += [title, "^" * len(title), ""]
        for action in actions:
            value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
            flags = ", ".join(f"``{flag}{value}``" for flag in action.option_strings) or f"``{action.metavar}``"
            lines += [flags, f"   {' '.join((action.help or '').replace('%%', '%').split())}", ""]
    return "\n".join(lines)


def pictures() -> None:
    """Draw what the pages show, from a real vmcore that comes with the project."""
    with npdump.open(distilled_vmcore("x86_64-7.2")) as dump:
        for name, what in (("map", "map"), ("levels", "levels"), ("free", "free"), ("level31", "level")):
            dump.pages.plot(what).savefig(GENERATED / f"{name}.png", dpi=110)


GENERATED.mkdir(exist_ok=True)
(GENERATED / "options.rst").write_text(options_page())
pictures()
