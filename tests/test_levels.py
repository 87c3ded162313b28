# SPDX-License-Identifier: GPL-2.0-or-later
"""Real vmcores that come with the project, distilled: what npdump keeps is what upstream makedumpfile keeps."""

import pytest

from tests.harness import CODEC_FLAGS, FIXTURES, reference
from tests.judging import check_elf, check_level
from tests.readers import codecs

NAMES = sorted(path.name.removesuffix(".distilled") for path in FIXTURES.glob("*.distilled"))
#: (fixture, level): why npdump deliberately keeps other pages than makedumpfile.
DEVIATIONS: dict[tuple[str, int], str] = {}


@pytest.mark.parametrize("level", range(32))
@pytest.mark.parametrize("name", NAMES)
def test_keeps_what_the_reference_keeps(name, level, distilled, tmp_path):
    if (name, level) in DEVIATIONS:
        pytest.skip(DEVIATIONS[name, level])
    check_level(distilled(name), reference(name), level, tmp_path)


@pytest.mark.parametrize("level", [1, 31])
@pytest.mark.parametrize("codec", [codec for codec in CODEC_FLAGS if codec != "lzo"])
def test_every_format_has_the_same_pages(codec, level, distilled, tmp_path):
    if codec != "raw" and (lacking := codecs.missing(codecs.FLAGS[codec])):
        pytest.skip(lacking)
    name = NAMES[-1]
    check_level(distilled(name), reference(name), level, tmp_path, codec)


@pytest.mark.parametrize("level", [0, 31])
@pytest.mark.parametrize("name", NAMES)
def test_elf_has_every_kept_page(name, level, distilled, tmp_path):
    check_elf(distilled(name), reference(name), level, tmp_path)


def test_there_are_fixtures():
    assert len(NAMES) >= 6
