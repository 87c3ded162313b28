# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plugin and skeletons: what is left of a dump tells whether another one is the same."""

import os
import shlex
import shutil
import subprocess
import sys
import textwrap

import pytest

import npdump
from npdump.answers.skeleton import Skeleton, differences, make_skeleton
from tests import harness
from tests.readers import open_dump

SUITE = """
def test_same(assert_same_dump):
    assert_same_dump({vmcore!r}, {dump!r})

def test_lost(assert_same_dump):
    assert_same_dump({vmcore!r}, {small!r})

def test_lost_is_allowed(assert_same_dump):
    assert_same_dump({vmcore!r}, {small!r}, lost=10**6, headers=1)

def test_reference(dump_reference):
    dump_reference({dump!r}, "refs/dump.json")
"""


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    """The paths of a vmcore, its whole dump and its small one."""
    directory, vmcore = tmp_path_factory.mktemp("plugin"), harness.distilled_vmcore("x86_64-6.1")
    with npdump.open(vmcore) as dump:
        dump.write(directory / "whole", codec="lzo", n_threads=1)
        dump.write(directory / "small", level=31, codec="lzo", n_threads=1)
    return vmcore, directory / "whole", directory / "small"


def run_suite(directory, *options):
    environment = os.environ | {"PYTHONPATH": str(harness.REPOSITORY), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "npdump.pytest_plugin", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def test_the_plugin_says_what_differs(dumps, tmp_path):
    vmcore, whole, small = map(str, dumps)
    (tmp_path / "test_it.py").write_text(SUITE.format(vmcore=vmcore, dump=whole, small=small))
    first = run_suite(tmp_path)
    assert "2 failed, 2 passed" in first.stdout
    n_lost = len(open_dump(dumps[1]).kept) - len(open_dump(dumps[2]).kept)
    assert f"{n_lost} pages are only in {vmcore}" in first.stdout
    assert "--npdump-update makes it" in first.stdout
    assert not (tmp_path / "refs").exists()
    assert "1 passed" in run_suite(tmp_path, "--npdump-update", "-k", "reference").stdout
    assert "1 passed" in run_suite(tmp_path, "-k", "reference").stdout
    assert (tmp_path / "refs" / "dump.json").stat().st_size < 4096


def test_a_skeleton_is_that_of_every_form_and_of_no_other_dump(dumps, tmp_path, npdump):
    vmcore, whole, small = dumps
    reference = tmp_path / "reference.json"
    reference.write_text(npdump("skeleton", vmcore).stdout)
    assert npdump("compare", reference, whole).returncode == 0
    result = npdump("compare", reference, whole, small)
    assert result.returncode == 1
    assert f"{whole}: the same" in result.stdout
    assert "other pages are kept" in result.stdout
    damaged = tmp_path / "damaged.json"
    damaged.write_text("{ not json")
    assert npdump("compare", damaged, whole).returncode == 2


def test_a_changed_byte_shows_in_its_piece(dumps, tmp_path):
    vmcore, altered = dumps[0], tmp_path / "altered"
    shutil.copy(vmcore, altered)
    load = max(open_dump(vmcore).loads, key=lambda load: load.filesz)
    with open(altered, "r+b") as file:
        file.seek(load.offset + load.filesz // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    pfn = (load.paddr + load.filesz // 2) // 4096
    skeletons = []
    for path in (vmcore, altered):
        with npdump.open(path) as dump:
            skeletons.append(make_skeleton(dump.source))
    (words,) = differences(*skeletons)
    start = pfn // 16384 * 16384
    assert words.startswith(f"page frames {start:#x} to {start + 16384:#x}: the ")
    assert Skeleton.from_json(skeletons[0].as_json()) == skeletons[0]
    assert skeletons[0].n_kept == len(open_dump(dumps[1]).kept)
    assert sum(piece[0] for piece in skeletons[0].pieces.values()) == skeletons[0].n_kept


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_progress_bars_and_html(dumps, capsys):
    pytest.importorskip("tqdm")
    from npdump.extras.progress import TqdmObserver

    with npdump.open(dumps[0], observer=TqdmObserver()) as dump:
        assert dump.pages.counts().totals()
        shown = (
            dump._repr_html_() + dump.pages._repr_html_() + dump.scan(31)._repr_html_() + dump.page(256)._repr_html_()
        )
    assert "Reading struct pages" in capsys.readouterr().err
    assert "sysrq triggered crash" in shown
    assert "<script" not in shown


def _script_of_the_action():
    """The last step's commands; YAML's own rules, as far as this one file needs them."""
    text = (harness.REPOSITORY / "action.yml").read_text()
    assert "${{" not in text.rpartition("      run: |\n")[2]
    return textwrap.dedent(text.rpartition("      run: |\n")[2])


@pytest.mark.parametrize(("other", "allow", "code"), [(1, "", 0), (2, "", 1), (2, "lost=100000,headers=9", 0)])
def test_the_action_compares(other, allow, code, dumps, tmp_path):
    (tmp_path / "npdump").write_text(f'#!/bin/sh\nexec {shlex.join(harness.npdump_command())} "$@"\n')
    (tmp_path / "npdump").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "REFERENCE": str(dumps[0]), "DUMP": str(dumps[other]),
        "ALLOW": allow, "JUNIT": str(tmp_path / "result.xml"), "PYTHONPATH": str(harness.REPOSITORY),
    }  # fmt: skip
    script = ["bash", "-euo", "pipefail", "-c", _script_of_the_action()]
    assert subprocess.run(script, env=environment, cwd=tmp_path, check=False).returncode == code
    assert (tmp_path / "result.xml").stat().st_size
