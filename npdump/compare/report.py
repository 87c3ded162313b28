# SPDX-License-Identifier: GPL-2.0-or-later
"""A comparison in words, as JSON, and as the JUnit XML that CI systems show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from npdump.compare import AREAS, Comparison

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npdump.compare import Difference, PageSet

__all__ = ["as_json", "as_junit", "as_text"]

_MAX_RUNS_SHOWN = 4
_MAX_DIFFERENCES_SHOWN = 10

_PAGES = {
    "memory": "pages are memory by one dump only",
    "lost": "pages are only in {one}",
    "extra": "pages are only in {other}",
    "changed": "pages hold different bytes",
    "stored": "pages are stored in different bytes",
}
_BESIDE = {"headers": "headers", "notes": "notes", "vmcoreinfo": "VMCOREINFO"}

CLASS_WORDS = {
    "KEPT": "kernel data",
    "CACHE": "page cache",
    "CACHE_PRIVATE": "private page cache",
    "USER": "user data",
    "FREE": "free",
    "HWPOISON": "broken memory",
    "OFFLINE": "offline memory",
    "UNACCEPTED": "memory not accepted",
}


def as_text(found: Comparison) -> str:
    """Say what differs, the gravest first; the last line is the verdict."""
    lines = [
        f"one    {found.one}: {found.forms[0]}, {found.n_kept[0]} of {found.n_memory[0]} pages",
        f"other  {found.other}: {found.forms[1]}, {found.n_kept[1]} of {found.n_memory[1]} pages",
        f"same   {found.n_same} pages"
        + (f", and {found.n_implied} pages of zeros that one stores and the other implies" if found.n_implied else ""),
    ]
    for area in AREAS:
        lines += _area(found, area)
    beyond = [area for area in AREAS if not found.is_tolerated(area)]
    verdict = f"different ({', '.join(beyond)})" if beyond else "the same"
    if not beyond and any(map(found.count, AREAS)):
        verdict += ", within what is allowed"
    return "\n".join([*lines, f"They are {verdict}."])


def _area(found: Comparison, area: str) -> list[str]:
    n = found.count(area)
    if not n:
        return []
    allowed = f" ({found.allowed[area]} allowed)" if area in found.allowed else ""
    if area in _BESIDE:
        differences: tuple[Difference, ...] = getattr(found, area)
        shown = differences[:_MAX_DIFFERENCES_SHOWN]
        lines = [f"{_BESIDE[area]}: {n} {'difference' if n == 1 else 'differences'}{allowed}"]
        lines += [f"  {item.name}: {_said(item.one)} / {_said(item.other)}" for item in shown]
        return lines + ([f"  … and {n - len(shown)} more"] if n > len(shown) else [])
    return [f"{n} {_PAGES[area].format(one=found.one, other=found.other)}{allowed}", *_pages(getattr(found, area))]


def _said(value: str | None) -> str:
    return "nothing" if value is None else printable(value)


def printable(text: str) -> str:
    """Return text with everything escaped that is not to be printed: it may come from a damaged dump."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _pages(pages: PageSet) -> list[str]:
    shown = pages.runs[:_MAX_RUNS_SHOWN]
    ranges = ", ".join(f"{start:#x}" if stop == start + 1 else f"{start:#x} to {stop:#x}" for start, stop in shown)
    more = ", …" if len(pages.runs) > len(shown) else ""
    lines = [f"  page frames {ranges}{more}"]
    if pages.by_class:
        counts = sorted(pages.by_class.items(), key=lambda item: -item[1])
        lines.append(f"  they are {', '.join(f'{CLASS_WORDS[name]} ({n})' for name, n in counts)}")
    for example in pages.examples[:2]:
        parts = [printable(example.how)] if example.how else []
        if example.page_class is not None:
            traits = f" for {', '.join(example.traits)}" if example.traits else ""
            fields = ", ".join(f"{name} {value:#x}" for name, value in example.fields.items())
            parts.append(f"{CLASS_WORDS[example.page_class]}{traits}; its struct page: {fields}")
        if parts:
            lines.append(f"  {example.pfn:#x}: {'; '.join(parts)}")
    return lines


def as_json(found: Comparison) -> dict[str, Any]:
    """Return the comparison as values for JSON; page frames are numbers."""
    areas: dict[str, Any] = {}
    for area in AREAS:
        value = getattr(found, area)
        if value is None:
            continue
        detail = (
            {"differences": [item._asdict() for item in value]}
            if area in _BESIDE
            else {
                "runs": [list(run) for run in value.runs],
                "by_class": value.by_class,
                "examples": [
                    {
                        "pfn": example.pfn,
                        "how": example.how,
                        "class": example.page_class,
                        "traits": list(example.traits),
                        "fields": {name: f"{number:#x}" for name, number in example.fields.items()},
                    }
                    for example in value.examples
                ],
            }
        )
        areas[area] = {"n": found.count(area), "allowed": found.allowed.get(area, 0), **detail}
    return {
        "one": found.one,
        "other": found.other,
        "forms": list(found.forms),
        "n_memory": list(found.n_memory),
        "n_kept": list(found.n_kept),
        "n_same": found.n_same,
        "n_implied": found.n_implied,
        "is_same": found.is_same,
        "areas": areas,
    }


def as_junit(comparisons: Sequence[Comparison]) -> str:
    """Return JUnit XML: a suite for each comparison, a case for each area."""
    suites = ElementTree.Element("testsuites", name="npdump compare")
    for found in comparisons:
        cases = [area for area in AREAS if getattr(found, area) is not None]
        failed = [area for area in cases if not found.is_tolerated(area)]
        suite = ElementTree.SubElement(
            suites,
            "testsuite",
            name=_xml(f"{found.one} and {found.other}"),
            tests=str(len(cases)),
            failures=str(len(failed)),
        )
        for area in cases:
            case = ElementTree.SubElement(suite, "testcase", classname="npdump.compare", name=area)
            lines = _area(found, area)
            if area in failed:
                failure = ElementTree.SubElement(case, "failure", message=_xml(lines[0]))
                failure.text = _xml("\n".join(lines))
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _xml(text: str) -> str:
    """Return text without the characters that XML 1.0 has no way to write."""
    return "\n".join(map(printable, text.encode("utf-8", "replace").decode("utf-8").split("\n")))
