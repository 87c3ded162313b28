# SPDX-License-Identifier: GPL-2.0-or-later
"""What else one can ask of a dump: the answer may be wrong or none, but there is one, soon, and without a traceback."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from npdump.cli.main import main
from tests.sweep.changes import parse
from tests.sweep.scans import Outcome

if TYPE_CHECKING:
    from pathlib import Path

EXIT_CODES = (0, 1, 2)


def questions(path: Path, text: str) -> list[list[str]]:
    """The command lines to ask of a dump, of which `text` is the true VMCOREINFO."""
    values = parse(text)
    vaddrs = [f"0x{values[key]}" for key in ("SYMBOL(init_uts_ns)", "SYMBOL(mem_section)") if key in values]
    return [
        ["info", "--json", str(path)],
        ["--dump-dmesg", str(path)],
        ["--mem-usage", str(path)],
        *(["--vtop", vaddr, str(path)] for vaddr in vaddrs),
        *(["explain", str(path), f"vaddr:{vaddr}"] for vaddr in vaddrs[:1]),
        ["explain", str(path), "pfn:0x2345"],
    ]


def ask(question: list[str]) -> Outcome:
    """Ask one, in this process: harmless if there is an answer or one line about why there is none."""
    out, err = io.StringIO(), io.StringIO()
    stdin = sys.stdin
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main(question)
    finally:
        sys.stdin = stdin
    said = err.getvalue()
    if code not in EXIT_CODES or "Traceback" in said or (code and not said.strip()):
        return Outcome("traceback", 0, 0, f"{' '.join(question)}: exit {code}: {said[-300:]}")
    return Outcome("refused" if code else "warned" if said else "harmless", 0, 0, said[:300])
