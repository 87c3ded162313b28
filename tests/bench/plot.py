# SPDX-License-Identifier: GPL-2.0-or-later
"""Curves on axes with logarithmic scales, as an SVG."""

from __future__ import annotations

import math
from html import escape
from typing import NamedTuple

__all__ = ["Curve", "draw"]

WIDTH, HEIGHT, MARGIN = 420, 300, 50
COLOURS = ("#1b6ca8", "#c84b31", "#2e8b57", "#8e44ad", "#7f6a00")


class Curve(NamedTuple):
    """A name, and points of (threads or GiB, seconds); those of scans are against GiB."""

    name: str
    points: list[tuple[float, float]]


class _Axes:
    """One diagram, whose left upper corner is at ``left``."""

    def __init__(self, left: int, title: str, curves: list[Curve]) -> None:
        self.left, self.title, self.curves = left, title, curves
        xs = [x for curve in curves for x, _ in curve.points]
        ys = [y for curve in curves for _, y in curve.points]
        self.x_range, self.y_range = _decades(xs), _decades(ys)

    def place(self, x: float, y: float) -> str:
        across = _share(x, self.x_range) * (WIDTH - 2 * MARGIN)
        up = _share(y, self.y_range) * (HEIGHT - 2 * MARGIN)
        return f"{self.left + MARGIN + across:.1f},{HEIGHT - MARGIN - up:.1f}"

    def lines(self) -> list[str]:
        right, bottom = self.left + WIDTH - MARGIN, HEIGHT - MARGIN
        found = [
            f'<text x="{self.left + MARGIN}" y="24" font-weight="bold">{escape(self.title)}</text>',
            f'<path d="M{self.left + MARGIN},{MARGIN} V{bottom} H{right}" fill="none" stroke="black"/>',
        ]
        for x in sorted({x for curve in self.curves for x, _ in curve.points}):
            at = self.place(x, self.y_range[0]).split(",")[0]
            found.append(f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{x:g}</text>')
        for power in range(math.floor(math.log10(self.y_range[0])), math.ceil(math.log10(self.y_range[1])) + 1):
            for factor in (1, 2, 5):
                y = factor * 10.0**power
                if self.y_range[0] <= y <= self.y_range[1]:
                    at = self.place(self.x_range[0], y).split(",")[1]
                    found.append(f'<text x="{self.left + MARGIN - 6}" y="{at}" text-anchor="end">{y:g} s</text>')
        for number, curve in enumerate(self.curves):
            colour = COLOURS[number % len(COLOURS)]
            points = " ".join(self.place(x, y) for x, y in curve.points)
            found.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
            label = f'x="{right}" y="{44 + 16 * number}" text-anchor="end" fill="{colour}"'
            found.append(f"<text {label}>{escape(curve.name)}</text>")
        return found


def _decades(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return low / 1.3, high * 1.3


def _share(value: float, bounds: tuple[float, float]) -> float:
    return math.log(value / bounds[0]) / math.log(bounds[1] / bounds[0])


def draw(curves: list[Curve]) -> str:
    """Return an SVG: seconds against threads on the left, of scans against GiB of memory on the right."""
    scans = [curve for curve in curves if curve.name.startswith("scan")]
    others = [curve for curve in curves if curve not in scans]
    diagrams = [_Axes(0, "seconds by threads", others), _Axes(WIDTH, "scan: seconds by GiB", scans)]
    lines = [line for diagram in diagrams if diagram.curves for line in diagram.lines()]
    size = f'width="{2 * WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *lines, "</svg>", ""])
