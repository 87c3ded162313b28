# SPDX-License-Identifier: GPL-2.0-or-later
"""``make openers``: a table of what `npdump check` said of damaged dumps, and what the programs did.

``python -m tests.openers [-n N] [--seed N] [--programs crash,drgn,gdb,libkdumpfile] [--vmlinux FILE] VMCORE``; each of
N damaged copies of the vmcore at level 31, in turn kdump-compressed and ELF, is checked, and given to the programs that
are said to open it. The exit code is 1 if one doesn't.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import npdump
from npdump.answers.soundness import check_soundness
from npdump.errors import NpdumpError
from npdump.observer import SILENT
from tests.openers.damage import damaged
from tests.openers.programs import opens

PROGRAMS = ("crash", "drgn", "gdb", "libkdumpfile")


def main(argv: list[str]) -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(prog="python -m tests.openers")
    parser.add_argument("-n", type=int, default=200, help="damaged copies")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--vmlinux", type=Path, help="for crash")
    parser.add_argument("vmcore", type=Path)
    options = parser.parse_args(argv)
    chance, counts = random.Random(options.seed), Counter[tuple[str, str]]()
    with tempfile.TemporaryDirectory(prefix="npdump-openers-") as directory:
        folder = Path(directory)
        with npdump.open(options.vmcore) as dump:
            release = dump.facts.release or ""
            dump.write(folder / "kdump", level=31, codec="lzo")
            dump.write(folder / "elf", level=31, format="elf")
        forms = [(folder / form).read_bytes() for form in ("kdump", "elf")]
        path = folder / "damaged"
        for number in range(options.n):
            path.write_bytes(damaged(forms[number % 2], chance))
            said = _said(path)
            for program in options.programs.split(","):
                if not said.get(program):
                    counts[program, "no"] += 1
                    continue
                is_open, answer = opens(program, path, release, options.vmlinux)
                counts[program, "yes" if is_open else "false yes"] += 1
                if not is_open:
                    form = ("kdump", "elf")[number % 2]
                    print(f"false yes: {program}, copy {number} ({form}): {answer[:200]}", flush=True)
    for program in options.programs.split(","):
        print(f"{program:<14}" + "".join(f"{counts[program, kind]:>6} {kind}" for kind in ("yes", "no", "false yes")))
    return 1 if any(kind == "false yes" for _, kind in counts) else 0


def _said(path: Path) -> dict[str, bool]:
    try:
        with npdump.open(path) as dump:
            return {answer.subject: answer.is_good for answer in check_soundness(dump, SILENT)}
    except NpdumpError:
        return {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
