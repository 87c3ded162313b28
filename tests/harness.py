# SPDX-License-Identifier: GPL-2.0-or-later
"""Running npdump as a user does, and the references to hold its output against."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from tests.fixtures.expand import expand
from tests.forked import Server

if TYPE_CHECKING:
    from collections.abc import Callable

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
FIXTURES = TESTS / "fixtures"
#: Expanded dumps are big and always the same: they stay from one run of the tests to the next.
CACHE = Path(os.environ.get("NPDUMP_TEST_CACHE", f"{tempfile.gettempdir()}/npdump-tests-{os.getuid()}"))
_MATTER_AT_THE_START = ("LD_", "NPDUMP_", "PYTHON")
CODEC_FLAGS = {"raw": None, "zlib": "-c", "lzo": "-l", "snappy": "-p", "zstd": "-z"}


def npdump_command() -> list[str]:
    """The command under test; NPDUMP_COMMAND names another one, to try the tests on a different filter."""
    override = os.environ.get("NPDUMP_COMMAND")
    return shlex.split(override) if override else [sys.executable, "-m", "npdump"]


def is_npdump() -> bool:
    """Whether npdump itself is under test."""
    return "NPDUMP_COMMAND" not in os.environ


@cache
def _server() -> Server:
    """What forks for each command of this process's tests."""
    return Server(REPOSITORY)


def run(
    *args: str | os.PathLike[str],
    timeout: float = 120,
    memory_nbytes: int | None = None,
    file_nbytes: int | None = None,
    unprivileged: bool = False,
    command: list[str] | None = None,
    env: dict[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    stdout: IO | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run npdump with its output captured, or the standard output in a file.

    `memory_nbytes` limits the address space, `file_nbytes` the size of files; `unprivileged` takes root's right to
    read everything. It is a process of its own each time; one that Python itself is started for where another `command`
    or variables of the environment that matter at the start are given.
    """
    limits = {"RLIMIT_AS": memory_nbytes, "RLIMIT_FSIZE": file_nbytes}
    limits = {name: nbytes for name, nbytes in limits.items() if nbytes is not None}
    arguments = [os.fspath(arg) for arg in args]
    # Another command is not to find this npdump.
    paths = {"PYTHONPATH": str(REPOSITORY)} if is_npdump() else {}
    environment = os.environ | paths | (env or {})
    is_usual = command is None and is_npdump() and not (unprivileged and os.getuid() == 0)
    if is_usual and not any(name.startswith(_MATTER_AT_THE_START) for name in env or {}):
        request = {
            "arguments": arguments,
            "directory": os.path.abspath(cwd or "."),
            "environment": dict(environment),
            "limits": limits,
        }
        return subprocess.CompletedProcess(arguments, *_server().run(request, stdout, timeout))
    argv = (
        ["prlimit", *(f"--{name[7:].lower()}={nbytes}:{nbytes}" for name, nbytes in limits.items())] if limits else []
    )
    if unprivileged and os.getuid() == 0:
        argv += ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    argv += [*(command or npdump_command()), *arguments]
    return subprocess.run(
        argv,
        text=True,
        timeout=timeout,
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=stdout or subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
    )


def run_ok(*args: str | os.PathLike[str], **options) -> subprocess.CompletedProcess[str]:
    """`run`, for what has to work."""
    result = run(*args, **options)
    said = f"{result.stdout}{result.stderr}"
    assert result.returncode == 0, f"{' '.join(map(str, args))}: exit {result.returncode}\n{said}"
    return result


def sparse_copy(source: Path, target: Path, changes: dict[int, bytes] | None = None) -> Path:
    """Copy a vmcore as what it has of data, and write other bytes at some offsets; returns `target`."""
    subprocess.run(["cp", "--sparse=always", source, target], check=True)
    os.chmod(target, 0o600)
    with open(target, "r+b") as file:
        for offset, data in (changes or {}).items():
            file.seek(offset)
            file.write(data)
    return target


def once(path: Path, make: Callable[[Path], None]) -> Path:
    """`path`, made by `make(temporary_path)` if it isn't there yet; safe with several test processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            part = path.with_name(path.name + ".part")
            make(part)
            part.rename(path)
    return path


@dataclass(frozen=True)
class Reference:
    """What upstream makedumpfile keeps of a dump, level by level (see make_refs in the fixtures' README).

    `json_path` has digests; `npz_path` packed bitmaps, least significant bit first, to say which pages differ.
    """

    json_path: Path
    npz_path: Path

    @cached_property
    def levels(self) -> dict[int, dict]:
        """Per level: `pages`, and the digests `bitmap2` and, at some levels, `bitmap1` and `content`."""
        return {int(level): entry for level, entry in json.loads(self.json_path.read_text()).items() if level.isdigit()}

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.npz_path) as arrays:
            return {name: np.unpackbits(arrays[name], bitorder="little").astype(bool) for name in arrays.files}

    def kept(self, level: int) -> np.ndarray:
        """Pages in the dump; bool by page frame number."""
        return self._arrays[f"level{level}"]

    @property
    def bitmap1(self) -> np.ndarray:
        """Pages of RAM; bool by page frame number."""
        return self._arrays["bitmap1"]


def reference(name: str) -> Reference:
    """The `Reference` of a distilled vmcore (its path below tests/fixtures) or of a vmcore of the corpus, by name."""
    if (FIXTURES / f"{name}.refs.json").exists():
        return Reference(FIXTURES / f"{name}.refs.json", FIXTURES / f"{name}.refs.npz")
    corpus = find_corpus()
    assert corpus is not None, f"no reference of {name}"
    return Reference(corpus / "refs" / f"{name}.json", corpus / "refs" / f"{name}.npz")


@cache
def distilled_vmcore(name: str) -> Path:
    """A distilled vmcore, expanded into the cache; a digest of what it was made from is part of its name there."""
    made_from = (FIXTURES / f"{name}.distilled", FIXTURES / "expand.py")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in made_from)).hexdigest()[:16]
    return once(CACHE / "distilled" / f"{name}-{digest}.vmcore", lambda part: expand(name, part))


def find_corpus() -> Path | None:
    """A directory of further vmcores with references: NPDUMP_CORPUS, or shared/corpus beside the repository."""
    named = os.environ.get("NPDUMP_CORPUS")
    candidates = [Path(named)] if named else [REPOSITORY.parent / "shared" / "corpus"]
    return next((path for path in candidates if path.is_dir()), None)


def corpus_names(prefix: str = "x86_64-") -> list[str]:
    """Names of the corpus's vmcores that have references."""
    corpus = find_corpus()
    if corpus is None:
        return []
    names = [path.name.removesuffix(".vmcore.zst") for path in corpus.glob(f"{prefix}*.vmcore.zst")]
    return sorted(name for name in names if (corpus / "refs" / f"{name}.json").exists())


def corpus_vmcore(name: str) -> Path:
    """A corpus vmcore, decompressed into the cache."""
    source = find_corpus() / f"{name}.vmcore.zst"
    stamp = source.stat()
    target = CACHE / "corpus" / f"{name}-{stamp.st_size}-{int(stamp.st_mtime)}.vmcore"
    zstd = shutil.which("zstd")

    def decompress(part: Path) -> None:
        if zstd:
            subprocess.run([zstd, "-dqf", "--sparse", "--long=27", source, "-o", part], check=True)
            return
        import zstandard

        with open(source, "rb") as packed, open(part, "wb") as plain:
            zstandard.ZstdDecompressor(max_window_size=1 << 27).copy_stream(packed, plain)

    return once(target, decompress)
