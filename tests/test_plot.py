# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures of memory: that they are drawn, of what they say, and in colours that all people can tell apart."""

from itertools import combinations

import numpy as np
import pytest

import npdump
from npdump.pages.colors import COLORS
from npdump.pages.kinds import PageKind
from tests import harness

pytest.importorskip("matplotlib")

#: Linear RGB as people without one kind of cones see it (Machado, Oliveira and Fernandes 2009, severity 1.0).
VISION = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
KINDS = [kind for kind in PageKind if kind != PageKind.ABSENT]
JUST_NOTICEABLE = 2.3
"""Difference of two colours in CIE L*a*b* that people notice side by side."""


def lab(color, matrix):
    """CIE L*a*b* of a colour under D65, as someone with such eyes sees it."""
    srgb = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(matrix) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ linear / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
def test_colours_can_be_told_apart(vision):
    seen = {name: lab(COLORS[name], VISION[vision]) for name in KINDS}
    distances = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in combinations(KINDS, 2)}
    nearest = min(distances, key=distances.get)
    assert distances[nearest] > 8 * JUST_NOTICEABLE, (nearest, distances[nearest])


@pytest.fixture(scope="module")
def pages():
    with npdump.open(harness.distilled_vmcore("x86_64-6.1")) as dump:
        yield dump.pages


def texts(figure):
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [text.get_text() for text in axes.texts] + [axes.get_title(loc="left")]
    return found


def test_the_map_says_how_large_each_kind_is(pages):
    figure = pages.plot("map", title="A title")
    shown = texts(figure)
    totals = pages.counts().totals()
    assert "A title" in shown
    assert any("free" in text for text in shown)
    image = figure.axes[0].images[0].get_array()
    free = [int(COLORS[PageKind.FREE][i : i + 2], 16) for i in (1, 3, 5)]
    tile = pages.mosaic().tile_npages
    assert tile == 1
    assert (image == free).all(axis=2).sum() == totals[PageKind.FREE]


@pytest.mark.parametrize("what", ["nodes", "free", "levels", "level"])
def test_each_picture_is_drawn(what, pages, tmp_path):
    figure = pages.plot(what)
    path = tmp_path / "picture.png"
    figure.savefig(path)
    assert path.stat().st_size > 10_000


def test_there_is_no_other_picture(pages):
    with pytest.raises(ValueError, match="map, zones"):
        pages.plot("everything")


@pytest.mark.parametrize("name", ["map.png", "map.svg"])
def test_map_writes_a_file(name, tmp_path, npdump):
    path = tmp_path / name
    vmcore = harness.distilled_vmcore("x86_64-6.1")
    assert npdump("map", "--layout", "rows", vmcore, path).returncode == 0
    assert path.read_bytes().startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")
    assert [found.name for found in tmp_path.iterdir()] == [name]
    result = npdump("map", vmcore, path)
    assert result.returncode == 1
    assert "-f" in result.stderr


def test_map_refuses_what_is_no_picture(tmp_path, npdump):
    result = npdump("map", harness.distilled_vmcore("x86_64-6.1"), tmp_path / "map.txt")
    assert result.returncode == 1
    assert ".png" in result.stderr
