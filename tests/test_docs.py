# SPDX-License-Identifier: GPL-2.0-or-later
"""What the documentation says is so: its examples are run, its commands too, and it names every option."""

import doctest
import re
import shlex

import pytest

import npdump as library
from npdump.cli.commands import SUBCOMMANDS
from npdump.cli.flags import build_parser
from npdump.cli.flags.unsupported import UNSUPPORTED_OPTIONS
from tests import harness

DOCS = harness.REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("*.rst"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_examples_give_what_they_say(path):
    pytest.importorskip("pandas")
    names = {"npdump": library, "vmcore": str(harness.distilled_vmcore("x86_64-6.1"))}
    assert doctest.testfile(str(path), module_relative=False, globs=names).failed == 0


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_commands_do_what_they_say(path, tmp_path, npdump):
    """Each line of a block that begins with ``$ npdump``, one after the other; all of them end with 0."""
    (tmp_path / "vmcore").symlink_to(harness.distilled_vmcore("x86_64-6.1"))
    for line in re.findall(r"^ +\$ npdump (.+)$", path.read_text(), re.MULTILINE):
        if line.startswith("map "):
            pytest.importorskip("matplotlib")
        result = npdump(*shlex.split(line), cwd=tmp_path)
        assert result.returncode == 0, f"npdump {line}: {result.stdout}{result.stderr}"


def test_the_page_for_makedumpfile_s_users_names_its_options():
    text = (DOCS / "makedumpfile.rst").read_text()
    named = set(re.findall(r"``(--?[\w-]+)``", text))
    known = {flag for action in build_parser()._actions for flag in action.option_strings}
    assert named <= known
    missing = {option.flag for option in UNSUPPORTED_OPTIONS} - named
    assert missing <= {"--xen-vmcoreinfo", "--xen_phys_start"}
    assert {name for name in SUBCOMMANDS if f"``{name}``" not in text} <= {"completion"}
