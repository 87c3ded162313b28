# SPDX-License-Identifier: GPL-2.0-or-later
"""A directory of further vmcores with references: NPDUMP_CORPUS, or shared/corpus beside the repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import harness
from tests.judging import check_all_levels, check_elf, check_level
from tests.readers import codecs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = harness.corpus_names() or [pytest.param("", marks=pytest.mark.skip(reason="no directory of further vmcores"))]


@pytest.mark.parametrize("name", NAMES)
def test_all_levels_keep_what_the_reference_keeps(name: str, corpus: Callable[[str], Path]) -> None:
    check_all_levels(corpus(name), harness.reference(name))


@pytest.mark.parametrize("level", [0, 1, 16, 31])
@pytest.mark.parametrize("name", NAMES)
def test_dumps_are_the_references(name: str, level: int, corpus: Callable[[str], Path], tmp_path: Path) -> None:
    check_level(corpus(name), harness.reference(name), level, tmp_path)


@pytest.mark.parametrize("codec", [codec for codec in harness.CODEC_FLAGS if codec != "lzo"])
@pytest.mark.parametrize("name", NAMES[-1:])
def test_every_format_has_the_same_pages(name: str, codec: str, corpus: Callable[[str], Path], tmp_path: Path) -> None:
    if codec != "raw" and (lacking := codecs.missing(codecs.FLAGS[codec])):
        pytest.skip(lacking)
    check_level(corpus(name), harness.reference(name), 31, tmp_path, codec)


@pytest.mark.parametrize("level", [0, 31])
@pytest.mark.parametrize("name", NAMES)
def test_elf_has_every_kept_page(name: str, level: int, corpus: Callable[[str], Path], tmp_path: Path) -> None:
    check_elf(corpus(name), harness.reference(name), level, tmp_path)
