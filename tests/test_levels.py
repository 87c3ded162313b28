# SPDX-License-Identifier: GPL-2.0-or-later
"""Real vmcores that come with the project, distilled: what npdump keeps is what upstream makedumpfile keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.harness import CODEC_FLAGS, FIXTURES, reference
from tests.judging import check_all_levels, check_elf, check_level
from tests.readers import codecs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = sorted(path.name.removesuffix(".distilled") for path in FIXTURES.glob("*.distilled"))


@pytest.mark.parametrize("name", NAMES)
def test_all_levels_keep_what_the_reference_keeps(name: str, distilled: Callable[[str], Path]) -> None:
    check_all_levels(distilled(name), reference(name))


@pytest.mark.parametrize("level", [0, 1, 31])
@pytest.mark.parametrize("name", NAMES)
def test_dumps_are_the_references(name: str, level: int, distilled: Callable[[str], Path], tmp_path: Path) -> None:
    """From the command line to the bytes of each page, at the levels of which the reference has their digest."""
    assert "content" in reference(name).levels[level]
    check_level(distilled(name), reference(name), level, tmp_path)


@pytest.mark.parametrize("codec", [codec for codec in CODEC_FLAGS if codec != "lzo"])
def test_every_format_has_the_same_pages(codec: str, distilled: Callable[[str], Path], tmp_path: Path) -> None:
    if codec != "raw" and (lacking := codecs.missing(codecs.FLAGS[codec])):
        pytest.skip(lacking)
    name = NAMES[-1]
    check_level(distilled(name), reference(name), 31, tmp_path, codec)


@pytest.mark.parametrize("level", [0, 31])
@pytest.mark.parametrize("name", NAMES)
def test_elf_has_every_kept_page(name: str, level: int, distilled: Callable[[str], Path], tmp_path: Path) -> None:
    check_elf(distilled(name), reference(name), level, tmp_path)


def test_there_are_fixtures() -> None:
    assert len(NAMES) >= 6
