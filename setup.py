# SPDX-License-Identifier: GPL-2.0-or-later
"""What is made while building: the compiled core, the manual page, the shells' completions; all else is in setup.cfg.

npdump does without the core where there is no compiler. The manual page needs argparse-manpage; packages of
distributions bring it made.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

COMPLETIONS = {"bash": "npdump", "zsh": "_npdump", "fish": "npdump.fish"}
"""Their files, as setup.cfg installs them and each shell looks for them."""

commands = {}
with suppress(ImportError):
    from build_manpages import build_manpages, get_build_py_cmd

    commands["build_manpages"] = build_manpages
    build_py = get_build_py_cmd(build_py)


class BuildPy(build_py):  # type: ignore[misc,valid-type]
    """Make the completions too."""

    def run(self) -> None:
        """Write a file for each shell into completions/."""
        from npdump.cli.commands.completion import script

        for shell, name in COMPLETIONS.items():
            path = Path("completions", shell, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(script(shell))
        super().run()


# All is made from the package's own declaration of options; isolated builds don't look here by themselves.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
setup(
    cmdclass={"build_py": BuildPy, **commands},
    ext_modules=[Extension("npdump._core", ["npdump/_core.c"], py_limited_api=True, optional=True)],
    # One wheel for Python 3.11 and all later ones.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
