# SPDX-License-Identifier: GPL-2.0-or-later
"""Damaged files one after the other, in a process that may die of it."""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.fuzz.readers import Finding, Fuzzer

if TYPE_CHECKING:
    from collections.abc import Iterator

ADDRESS_SPACE_NBYTES = 4 << 30
DEAF_SECONDS = 240
#: Files that are written for each try, where there is room in memory.
FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _serve(reader: str, first: int, folder: str, connection: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_NBYTES, ADDRESS_SPACE_NBYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    fuzzer = Fuzzer(reader)
    number = first
    while True:
        connection.send((number, fuzzer.try_number(number, Path(folder))))
        number += 1


def campaign(reader: str, seconds: float, first: int = 0) -> Iterator[tuple[int, list[Finding]]]:
    """Yield (number, findings) for so many seconds; what ends the process is a finding, and another one goes on."""
    # The process that tries them is killed at the end, and can't clean up.
    with tempfile.TemporaryDirectory(prefix="npdump-fuzz-", dir=FAST) as folder:
        yield from _campaign(reader, seconds, first, folder)


def _campaign(reader: str, seconds: float, first: int, folder: str) -> Iterator[tuple[int, list[Finding]]]:
    end = time.monotonic() + seconds
    number = first
    while time.monotonic() < end:
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(reader, number, folder, theirs), daemon=True
        )
        process.start()
        theirs.close()
        try:
            while time.monotonic() < end or number == first:
                if not ours.poll(DEAF_SECONDS):
                    raise TimeoutError
                yield ours.recv()
                number += 1
        except (EOFError, TimeoutError) as error:
            process.kill()
            process.join()
            what = "hang" if isinstance(error, TimeoutError) else "crash"
            yield number, [Finding(what, [], f"exit code {process.exitcode}")]
            number += 1
        finally:
            process.kill()
            process.join()
