# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether what a run left is what it says that it is; told by readers that share nothing with npdump."""

from __future__ import annotations

import hashlib
import os
import struct
from typing import TYPE_CHECKING

from tests.readers import open_dump
from tests.readers.compare import content_digest
from tests.readers.flattened import unflatten

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.scenarios import Scenario

KDUMP_INCOMPLETE, ELF_INCOMPLETE = 8, 1
OLD = b"an old file\n" * 1000


def state_of(path: Path) -> str:
    """Return what a dump is: missing, no dump, incomplete, or whole with the digest of its pages."""
    if not path.exists():
        return "missing"
    data = path.read_bytes()
    if data == OLD:
        return "old"
    # Of thousands of runs, most end in the same few ways.
    digest = hashlib.sha256(data).digest()
    if digest not in _known:
        _known[digest] = _state_of(path)
    return _known[digest]


_known: dict[bytes, str] = {}


def _state_of(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            is_flat = file.read(12) == b"makedumpfile"
        if is_flat:
            # What a stream without its end becomes says that it's incomplete: struct.error.
            path = unflatten(path, path.with_name(f"{path.name}.unflattened"))
        dump = open_dump(path)
        if dump.status & (ELF_INCOMPLETE if dump.kind == "elf" else KDUMP_INCOMPLETE):
            return "incomplete"
    except (ValueError, IndexError, KeyError, EOFError, StopIteration, AssertionError, struct.error) as error:
        return f"no dump ({type(error).__name__})"
    # It says that it's whole: from here on an error of the reader is a fault.
    return f"whole {len(dump.kept)} pages {content_digest(dump.contents())}"


def faults_of(
    scenario: Scenario,
    folder: Path,
    code: int,
    stderr: str,
    wanted: dict[str, str],
    is_killed: bool,
    texts: dict[str, bytes] | None = None,
) -> list[str]:
    """Return what is wrong with the outcome of a run; `wanted`, `texts`: what each file is without faults."""
    found = []
    lines = [line for line in stderr.replace("\r", "\n").splitlines() if line.startswith("npdump: ")]
    errors = [line for line in lines if not line.startswith("npdump: warning: ")]
    # A signal may come before npdump's first line is run: that is the interpreter's.
    if "Traceback" in stderr and (not is_killed or "npdump" in stderr.partition("Traceback")[2]):
        found.append(f"traceback: {stderr[-300:]}")
    if not is_killed:
        if code not in (0, 1, 2):
            found.append(f"exit {code}: {stderr[-200:]}")
        if code and len(errors) != 1:
            found.append(f"exit {code} with {len(errors)} lines of error: {stderr[-300:]}")
        left = [name for name in os.listdir(folder) if name.endswith(".part")]
        found += [
            f"{name} is left"
            for name in left
            if not any(text in stderr for text in (f"{name} has the new file", "another npdump is writing it"))
        ]
    for name, whole in wanted.items():
        try:
            state = state_of(folder / name)
        except Exception as error:  # whatever an independent reader says of a file that claims to be whole
            found.append(f"{name}: says that it's whole, and can't be read: {error!r}")
            continue
        if state.startswith("whole") and state != whole:
            found.append(f"{name}: looks whole and isn't: {state[:40]} instead of {whole[:40]}")
        if code == 0 and not is_killed and state != whole:
            found.append(f"{name}: exit 0, but it's {state[:60]}")
    for name, text in (texts or {}).items():
        path = folder / name
        # A text can't say that it's incomplete: npdump does.
        if path.exists() and "some of the log is lost" in stderr:
            continue
        if path.read_bytes() != text if path.exists() else code == 0 and not is_killed:
            found.append(f"{name}: exit {code}, but it is {'another text' if path.exists() else 'missing'}")
    return found
