# SPDX-License-Identifier: GPL-2.0-or-later
"""VMCOREINFO: the text in which a kernel describes itself to dump tools.

References
----------
Linux ``Documentation/admin-guide/kdump/vmcoreinfo.rst`` and ``kernel/vmcore_info.c``.
"""

from __future__ import annotations

import re

from npdump.facts import Fact, Facts

__all__ = ["ORIGIN", "format_text", "parse"]

ORIGIN = "VMCOREINFO"

_LINE = re.compile(r"(?P<key>(?P<kind>[A-Z0-9_-]+)(?:\([^()=]*\))?)=(?P<value>.*)")
_HEXADECIMAL = {"SYMBOL", "KERNELOFFSET"}
_NUMERIC = {"SIZE", "OFFSET", "LENGTH", "NUMBER", "PAGESIZE", "CRASHTIME"}
_WORD_MASK = (1 << 64) - 1
_SHOWN_NCHARS = 40


def _number(kind: str, text: str) -> int | None:
    """Return the value of a line, None if it is not the number that it should be.

    SYMBOL and KERNELOFFSET are hexadecimal without 0x. The rest are C longs in decimal; some architectures print
    addresses as NUMBER in hexadecimal, with 0x (arm64, riscv64).
    """
    try:
        if kind in _HEXADECIMAL:
            value = int(text, 16)
        elif re.fullmatch(r"[+-]?\d+", text):
            value = int(text)
        else:
            value = int(text, 16)
    except ValueError:
        return None
    return value if -(1 << 63) <= value <= _WORD_MASK else None


def parse(note: bytes, origin: str = ORIGIN) -> Facts:
    """Read the description of a VMCOREINFO note, or a file of the same form.

    Unknown keys are kept, malformed and repeated lines ignored (the first one holds), and so are NULs and a last
    line that was cut off. A value that is not a number of 64 bits where there should be one is rejected.
    """
    values: dict[str, Fact] = {}
    texts: dict[str, str] = {}
    rejected: dict[str, str] = {}
    for line in note.replace(b"\0", b"").decode("utf-8", "replace").split("\n")[:-1]:
        match = _LINE.fullmatch(line.strip())
        if match is None or match["key"] in values or match["key"] in texts:
            continue
        if match["kind"] in _HEXADECIMAL or match["kind"] in _NUMERIC:
            number = _number(match["kind"], match["value"])
            if number is not None:
                values[match["key"]] = Fact(number, origin)
            else:
                shown = ascii(match["value"][:_SHOWN_NCHARS])[1:-1]
                rejected[match["key"]] = f"{origin} says {match['key']}={shown}, which isn't a number that a kernel has"
        else:
            texts[match["key"]] = match["value"]
    return Facts(values, texts, {key: reason for key, reason in rejected.items() if key not in values})


def format_text(facts: Facts, page_size: int) -> str:
    """Lay facts out as makedumpfile's option ``-i`` reads them."""
    lines = [f"OSRELEASE={facts.release}"] if facts.release else []
    lines.append(f"PAGESIZE={page_size}")
    for key, fact in facts.items():
        kind = key.partition("(")[0]
        lines.append(f"{key}={fact.value:x}" if kind in _HEXADECIMAL else f"{key}={fact.value}")
    lines += [f"{key}={text}" for key, text in facts.texts() if key.startswith("SRCFILE(")]
    return "\n".join(lines) + "\n"
