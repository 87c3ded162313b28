# SPDX-License-Identifier: GPL-2.0-or-later
"""Damaged files: those on which something was found once, and the first ones of ``make fuzz``."""

from __future__ import annotations

import lzma
import random
from itertools import islice
from pathlib import Path

import pytest

from tests.fuzz.campaign import campaign
from tests.fuzz.mutate import mutated
from tests.fuzz.readers import tried
from tests.fuzz.seeds import MAKERS, Seed

CORPUS = Path(__file__).parent / "fuzz" / "corpus"
N_FILES = 12
LONG_ENOUGH = 600


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.xz")), ids=lambda path: path.name)
def test_what_was_found_once(path: Path, tmp_path: Path) -> None:
    """Named after its reader: all that may be asked about such a file is asked."""
    reader, data = path.name.partition("-")[0], lzma.decompress(path.read_bytes())
    assert tried(reader, data, None, tmp_path) == []


@pytest.mark.parametrize("reader", MAKERS)
def test_the_first_damaged_files(reader: str, tool) -> None:
    if reader in ("vmlinux", "cache"):
        tool("gcc"), tool("pahole")
    found = list(islice(campaign(reader, LONG_ENOUGH), N_FILES))
    assert len(found) == N_FILES
    assert [(number, findings) for number, findings in found if findings] == []


def test_damage_is_made_where_the_fields_are() -> None:
    seed = Seed("seed", bytes(1 << 16), ((100, 108),))
    made = [mutated(seed, random.Random(number)) for number in range(200)]
    assert len(set(made)) > 150
    assert sum(any(data[96:112]) for data in made) > 50
