# SPDX-License-Identifier: GPL-2.0-or-later
"""A directory of further vmcores with references: NPDUMP_CORPUS, or shared/corpus beside the repository."""

import pytest

from tests import harness
from tests.judging import check_elf, check_level
from tests.readers import codecs

NAMES = harness.corpus_names() or [pytest.param("", marks=pytest.mark.skip(reason="no directory of further vmcores"))]
#: (name, level): why npdump deliberately keeps other pages than makedumpfile.
DEVIATIONS: dict[tuple[str, int], str] = {}


@pytest.mark.parametrize("level", range(32))
@pytest.mark.parametrize("name", NAMES)
def test_keeps_what_the_reference_keeps(name, level, corpus, tmp_path):
    if (name, level) in DEVIATIONS:
        pytest.skip(DEVIATIONS[name, level])
    check_level(corpus(name), harness.reference(name), level, tmp_path)


@pytest.mark.parametrize("codec", [codec for codec in harness.CODEC_FLAGS if codec != "lzo"])
@pytest.mark.parametrize("name", NAMES)
def test_every_format_has_the_same_pages(name, codec, corpus, tmp_path):
    if codec != "raw" and (lacking := codecs.missing(codecs.FLAGS[codec])):
        pytest.skip(lacking)
    check_level(corpus(name), harness.reference(name), 31, tmp_path, codec)


@pytest.mark.parametrize("level", [0, 31])
@pytest.mark.parametrize("name", NAMES)
def test_elf_has_every_kept_page(name, level, corpus, tmp_path):
    check_elf(corpus(name), harness.reference(name), level, tmp_path)
