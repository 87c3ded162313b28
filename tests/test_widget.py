# SPDX-License-Identifier: GPL-2.0-or-later
"""The zoomable map: its pictures, and what the widget answers to the page."""

from collections import Counter

import numpy as np
import pytest

import npdump
from npdump.pages.kinds import PageKind
from npdump.pages.mosaic import hilbert
from npdump.pages.pyramid import make_pyramid, tile_at
from tests import harness

SIDE = 64


@pytest.fixture(scope="module")
def pyramid():
    """Two stretches of memory whose kinds are noise, for pictures of 64 points a side."""
    shown = np.array([[0, 1024 * 10], [1024 * 20, 1024 * 26]])
    kinds = np.random.default_rng(3).integers(0, len(PageKind), 1024 * 26).astype(np.uint8)
    pieces = ((start, kinds[start : start + 2048]) for start in range(0, len(kinds), 2048))
    return kinds, make_pyramid(shown, pieces, 1 << 24, 4096, smallest=4)


@pytest.mark.parametrize("order", [0, 1, 4])
def test_tile_at_is_where_the_curve_is(order):
    x, y = hilbert(order)
    assert [tile_at(1 << order, *point) for point in zip(x.tolist(), y.tolist(), strict=True)] == list(range(len(x)))


def test_each_point_is_its_page(pyramid):
    kinds, made = pyramid
    height, width = made.images[0].shape
    for x, y in np.random.default_rng(4).integers(0, min(height, width), (200, 2)).tolist():
        pfn = made.pfn_at(x, y)
        assert made.images[0][y, x] == (PageKind.ABSENT if pfn is None else kinds[pfn])
    assert made.pfn_at(-1, 0) is None
    assert made.pfn_at(0, height) is None


def test_smaller_pictures_show_what_most_points_are(pyramid):
    _, made = pyramid
    for large, small in zip(made.images, made.images[1:], strict=False):
        for y, x in np.ndindex(*(n // 2 for n in large.shape)):
            four = large[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(-1).tolist()
            count = Counter(four)
            if PageKind.HWPOISON in count:
                assert small[y, x] == PageKind.HWPOISON
            else:
                assert count[small[y, x]] == max(count.values())


def test_tiles_of_many_pages_are_what_most_of_them_are():
    kinds = np.repeat(np.arange(1, 9, dtype=np.uint8), 512)
    kinds[100] = PageKind.HWPOISON
    made = make_pyramid(np.array([[0, 4096]]), [(0, kinds)], 8, 4096)
    assert made.tile_npages == 512
    x, y = hilbert(1)
    assert made.images[0][y, x].tolist() == [PageKind.HWPOISON, 2, 3, 4]
    assert made.counts[PageKind.HWPOISON] == 1


def test_views_end_where_memory_does(pyramid):
    _, made = pyramid
    view = made.view(0, -2, -3, 10, 8)
    assert view.shape == (8, 10)
    assert not view[:3].any()
    assert not view[:, :2].any()
    assert np.array_equal(view[3:, 2:], made.images[0][:5, :8])
    assert not made.view(0, 10**6, 0, 4, 4).any()


def test_widget_answers(monkeypatch):
    pytest.importorskip("anywidget")
    with npdump.open(harness.distilled_vmcore("x86_64-6.1")) as dump:
        widget = dump.map_widget()
        sent = []
        monkeypatch.setattr(type(widget), "send", lambda self, content, buffers=None: sent.append((content, buffers)))
        pyramid = dump.pages.pyramid()
        ask = {"kind": "view", "id": 1, "level": 0, "x": 5, "y": 6, "width": 30, "height": 20}
        widget._handle_custom_msg(ask, [])
        widget._handle_custom_msg({"kind": "page", "x": 0, "y": 0}, [])
        for wrong in (ask | {"level": 99}, ask | {"width": 1 << 20, "height": 1 << 20}, {"kind": "other"}, {}):
            widget._handle_custom_msg(wrong, [])
    (echo, (data,)), (page, _) = sent
    assert echo == ask
    assert data == pyramid.images[0][6:26, 5:35].tobytes()
    assert f"{pyramid.pfn_at(0, 0):#x}" in page["html"]
    assert widget.size[:2] == list(pyramid.images[0].shape[::-1])
