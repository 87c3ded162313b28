# SPDX-License-Identifier: GPL-2.0-or-later
"""From each form of dump to each other one and back, by npdump and by others.

On whole vmcores of each word size, byte order and size of pages; what is in them makes no difference to the forms.

A level-31 dump stands for the vmcore: what has no data there is never asked for.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests import harness, peers
from tests.readers import open_dump
from tests.readers.compare import content_digest
from tests.readers.flattened import unflatten

NO_CORPUS = pytest.param("", marks=pytest.mark.skip(reason="no directory of further vmcores (NPDUMP_CORPUS)"))
_MADE_ALIKE = ("x86_64-7.2", "arm64-", "riscv64-")
NAMES = [name for name in harness.corpus_names("") if not name.startswith(_MADE_ALIKE)] or [NO_CORPUS]
FILTERED = harness.corpus_names(f"{platform.machine()}-") or [NO_CORPUS]
"""Those of the machine that makedumpfile is for, if it's installed: it filters no others."""
OPTIONS = {
    "kdump": ("-l",),
    "elf": ("-E",),
    "flattened": ("-F", "-l"),
    "flattened elf": ("-F", "-E"),
    "split": ("--split", "-l"),
}
KNOWS_ALL_PAIRS = "x86_64-6.1"
SAME_ABI = ("x86_64-", "arm64-", "ppc64el-", "riscv64-")
"""Machines whose headers a makedumpfile of x86_64 takes for its own; it reads those of i386 and s390x wrongly."""
OF_MAKEDUMPFILE = {"kdump": ("kdump",), "elf": ("kdump", "elf")}
"""What makedumpfile filters, and to what: nothing that is flattened or split, and kdump-compressed dumps not to ELF."""
TARGETS = ("kdump", "flattened elf")
"""One of each kind; that a target doesn't depend on the source is seen where npdump goes from each form to each."""
REARRANGED = [name for name in harness.corpus_names("") if name.startswith((KNOWS_ALL_PAIRS, "s390x-"))] or [NO_CORPUS]
"""Of either byte order: the flattened format is the same whatever is in it."""
TOOL = harness.REPOSITORY / "tools" / "makedumpfile-R.py"


class Forms:
    """Dumps of one vmcore, made when they are asked for."""

    def __init__(self, name: str, vmcore: Path, directory: Path) -> None:
        self.name, self.directory = name, directory
        self.base = directory / "base"
        harness.run_ok("-l", "-d", "31", vmcore, self.base)
        self.pages = digest([self.base], directory)
        self._made: dict[tuple[str, str], list[Path]] = {}

    def ours(self, form: str) -> list[Path]:
        """The dump in some form, by npdump."""
        return self._make("npdump", form, [self.base], convert)

    def theirs(self, form: str, makedumpfile) -> list[Path]:
        """The dump in some form, by makedumpfile, which makes ELF dumps of ELF dumps only."""
        source = self.ours("elf") if form.endswith("elf") else [self.base]
        return self._make("makedumpfile", form, source, makedumpfile)

    def _make(self, program, form, source, make) -> list[Path]:
        if (program, form) not in self._made:
            directory = self.directory / f"{program} {form}"
            directory.mkdir()
            self._made[program, form] = make(form, source, directory)
        return self._made[program, form]


def outputs(form: str, directory: Path) -> list[Path]:
    """The files that a dump in some form is, in an order that isn't that of the pages."""
    return [directory / f"part{number}" for number in (2, 0, 1)] if form == "split" else [directory / "dump"]


def convert(form: str, sources: list[Path], directory: Path) -> list[Path]:
    """Have npdump make some form of a dump."""
    paths = outputs(form, directory)
    options = ["-f", *OPTIONS[form], "-d", "31", "--message-level", "4", "--num-threads", "1"]
    if "-F" in options:
        with open(paths[0], "wb") as stdout:
            harness.run_ok(*options, *sources, stdout=stdout)
        return paths
    if form == "split":
        # Its outputs are what follows the first operand: several parts are made one first.
        whole = sources[0]
        if len(sources) > 1:
            whole = directory / "whole"
            harness.run_ok("-f", "--reassemble", *sources, whole)
        harness.run_ok(*options, whole, *sorted(paths))
        return paths
    harness.run_ok(*options, *sources, paths[0])
    return paths


def digest(paths: list[Path], directory: Path) -> str:
    """Of the pages of a dump in any form, zero pages left out: ELF dumps don't have them.

    A file that equals one that was read before isn't read again: mostly the way to it makes no difference.
    """
    key = []
    for path in paths:
        with open(path, "rb") as file:
            key.append(hashlib.file_digest(file, "sha1").digest())
    if tuple(key) not in _DIGESTS:
        _DIGESTS[tuple(key)] = _digest(paths, directory)
    return _DIGESTS[tuple(key)]


_DIGESTS: dict[tuple[bytes, ...], str] = {}


def _digest(paths: list[Path], directory: Path) -> str:
    pages = {}
    for number, path in enumerate(paths):
        with open(path, "rb") as file:
            is_flattened = file.read(12) == b"makedumpfile"
        dump = open_dump(unflatten(path, directory / f"unflattened{number}") if is_flattened else path)
        zero = bytes(dump.block_size)
        pages |= {pfn: page for pfn, page in dump.contents() if page != zero}
    return content_digest(sorted(pages.items()))


@pytest.fixture(scope="module")
def forms(corpus, tmp_path_factory):
    """The `Forms` of the vmcore of a name."""
    made: dict[str, Forms] = {}

    def of(name: str) -> Forms:
        if name not in made:
            made[name] = Forms(name, corpus(name), tmp_path_factory.mktemp("base"))
        return made[name]

    return of


def program_for(name: str):
    """A makedumpfile that filters dumps of that vmcore, else a skip; called as `convert` is."""
    path = peers.makedumpfile_for(name.split("-")[1])

    def run(form: str, sources: list[Path], directory: Path) -> list[Path]:
        paths = outputs(form, directory)
        options = [path, *OPTIONS[form], "-d", "31", "--message-level", "4"]
        if "-F" in options:
            with open(paths[0], "wb") as stdout:
                subprocess.run([*options, *sources], stdout=stdout, check=True, timeout=120)
        else:
            if form == "split":
                options += ["--splitblock-size", "65536"]
            subprocess.run([*options, *sources, *sorted(paths)], check=True, timeout=120, capture_output=True)
        return paths

    return run


def ways(n: int) -> list[int]:
    """Visit n places so that each is left once for each other one, and end where it began."""
    walk = [0]
    left = {(a, b) for a in range(n) for b in range(n) if a != b}
    while left:
        # Hierholzer's way, which a complete graph makes easy: the farthest step first.
        step = next(d for d in range(n - 1, 0, -1) if (walk[-1], (walk[-1] + d) % n) in left)
        left.remove((walk[-1], (walk[-1] + step) % n))
        walk.append((walk[-1] + step) % n)
    return walk


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(name, forms, tmp_path):
    """Through all forms to the first one; from each form to each other where that is quick."""
    walk = ways(len(OPTIONS)) if name.startswith(KNOWS_ALL_PAIRS) else [0, 1, 2, 4, 3, 0]
    assert walk[0] == walk[-1]
    names = list(OPTIONS)
    if name.startswith(KNOWS_ALL_PAIRS):
        assert len(set(pairwise(walk))) == len(names) * (len(names) - 1)
    paths = [forms(name).base]
    for number, form in enumerate(names[place] for place in walk[1:]):
        directory = tmp_path / str(number % 2)
        directory.mkdir(exist_ok=True)
        paths = convert(form, paths, directory)
        assert digest(paths, tmp_path) == forms(name).pages, f"step {number}: {form}"


@pytest.mark.parametrize("source", OPTIONS)
@pytest.mark.parametrize("name", FILTERED)
def test_npdump_reads_what_makedumpfile_wrote(name, source, forms, tmp_path):
    theirs = forms(name).theirs(source, program_for(name))
    assert digest(theirs, tmp_path) == forms(name).pages
    for target in TARGETS:
        assert digest(convert(target, theirs, tmp_path), tmp_path) == forms(name).pages, target


@pytest.mark.parametrize("source", OF_MAKEDUMPFILE)
@pytest.mark.parametrize("name", FILTERED)
def test_makedumpfile_reads_what_npdump_wrote(name, source, forms, tmp_path):
    program = program_for(name)
    for target in OF_MAKEDUMPFILE[source]:
        directory = tmp_path / target
        directory.mkdir()
        theirs = program(target, forms(name).ours(source), directory)
        assert digest(theirs, tmp_path) == forms(name).pages, target


@pytest.mark.parametrize("form", ["flattened", "flattened elf"])
@pytest.mark.parametrize("name", REARRANGED)
def test_rearranged_by_others(name, form, forms, tool, tmp_path):
    """The same file, byte for byte."""
    [flattened] = forms(name).ours(form)
    unflatten(flattened, tmp_path / "expected")
    for program in (tool("makedumpfile"), tool("makedumpfile-R.pl")):
        out = tmp_path / Path(program).name
        argv = [program, out] if program.endswith(".pl") else [program, "-R", out]
        with open(flattened, "rb") as stdin:
            subprocess.run(argv, stdin=stdin, capture_output=True, check=True, timeout=120)
        assert out.read_bytes() == (tmp_path / "expected").read_bytes()


@pytest.mark.parametrize("form", ["flattened", "flattened elf"])
@pytest.mark.parametrize("name", FILTERED)
def test_others_are_rearranged(name, form, forms, tmp_path):
    [flattened] = forms(name).theirs(form, program_for(name))
    unflatten(flattened, tmp_path / "expected")
    for argv in ([*harness.npdump_command(), "-R"], [sys.executable, "-S", TOOL]):
        with open(flattened, "rb") as stdin:
            subprocess.run(
                [*argv, tmp_path / "out"],
                stdin=stdin,
                capture_output=True,
                check=True,
                timeout=120,
                cwd=harness.REPOSITORY,
            )
        assert (tmp_path / "out").read_bytes() == (tmp_path / "expected").read_bytes()
        (tmp_path / "out").unlink()


@pytest.mark.parametrize("name", NAMES)
def test_reassembled_by_makedumpfile(name, forms, tmp_path):
    if platform.machine() != "x86_64" or not name.startswith(SAME_ABI):
        pytest.skip(f"this makedumpfile, of {platform.machine()}, reads no other machine's headers")
    path = peers.makedumpfile_for("2.6")
    peers.run_makedumpfile(path, "--reassemble", *forms(name).ours("split"), tmp_path / "whole")
    assert digest([tmp_path / "whole"], tmp_path) == forms(name).pages
