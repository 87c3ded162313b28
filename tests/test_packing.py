# SPDX-License-Identifier: GPL-2.0-or-later
"""npdump in one file, and npdump that somebody packed without its plug-ins."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests import harness

NAME = "x86_64-6.1"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """What `make zipapp` makes."""
    path = tmp_path_factory.mktemp("zipapp") / "npdump.pyz"
    subprocess.run([sys.executable, harness.REPOSITORY / "tools/pack_zipapp.py", path], check=True)
    return path


def test_a_zipapp_makes_the_same_dump(archive, distilled, tmp_path):
    arguments = ("-l", "-d31", distilled(NAME))
    harness.run_ok(*arguments, tmp_path / "zipped", command=[sys.executable, "-I", str(archive)])
    harness.run_ok(*arguments, tmp_path / "plain")
    assert (tmp_path / "zipped").read_bytes() == (tmp_path / "plain").read_bytes()


def test_a_zipapp_has_the_core_and_exit_codes(archive, tmp_path):
    command = [sys.executable, "-I", str(archive)]
    version = harness.run("--version", command=command, cwd=tmp_path)
    is_built = list((harness.REPOSITORY / "npdump").glob("_core*.so"))
    assert ("core    compiled" in version.stdout) == bool(is_built)
    assert harness.run("--no-such-option", command=command, cwd=tmp_path).returncode == 1


def test_missing_plug_ins_are_named(distilled, tmp_path):
    """Freezing programs see no imports by name, and leave plug-ins out."""
    shutil.copytree(harness.REPOSITORY / "npdump", tmp_path / "npdump", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (tmp_path / "npdump/sources").glob("[!_]*.py"):
        path.unlink()
    result = harness.run("info", distilled(NAME), env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
    assert result.returncode == 1
    assert "npdump was packed without them" in result.stderr
    assert "npdump.sources" in result.stderr
