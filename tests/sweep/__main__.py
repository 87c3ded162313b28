# SPDX-License-Identifier: GPL-2.0-or-later
"""``make sweep``: every value of every VMCOREINFO changed, and a table of what came of it.

``python -m tests.sweep [-n N] [--key REGEX] [--dump REGEX] [--levels 31,16] [--thorough] [--from-the-end]
[--json FILE] [VMCORE...]``; VMCOREs are further dumps, as of other kernels. Each change is tried at the first level,
and at two of the others in turn; --thorough tries it at all. The exit code is 1 if pages were lost without a word, or
anything else is wrong. FILE has the table and all that is wrong so far, from the first minutes on.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from tests import harness
from tests.sweep.changes import changes_of
from tests.sweep.dumps import names, vmcoreinfo_of
from tests.sweep.scans import LEVELS
from tests.sweep.trials import Trial, try_all

if TYPE_CHECKING:
    from tests.sweep.changes import Change

GOOD = ("harmless", "refused", "warned", "extra")
BAD = ("lost", "traceback", "hang", "crash", "memory")
PIECE = 500


def main(argv: list[str]) -> int:
    """Run the sweep."""
    parser = argparse.ArgumentParser(prog="python -m tests.sweep")
    parser.add_argument("-n", type=int, default=2, help="processes")
    parser.add_argument("--key", default="", help="only keys in which this regular expression is found")
    parser.add_argument("--dump", default="", help="only dumps in whose name this regular expression is found")
    parser.add_argument("--levels", default=",".join(map(str, LEVELS)), help="dump levels")
    parser.add_argument("--thorough", action="store_true", help="each change at all levels and with all questions")
    parser.add_argument("--all", action="store_true", help="list more kept without a word as well")
    parser.add_argument("--from-the-end", action="store_true", help="begin with what comes last otherwise")
    parser.add_argument("--json", type=Path, help="write the results to a file")
    parser.add_argument("vmcores", nargs="*", type=Path, help="further ELF vmcores")
    options = parser.parse_args(argv)
    levels = tuple(int(level) for level in options.levels.split(","))
    dumps = {name: harness.distilled_vmcore(name) for name in names()} | {str(path): path for path in options.vmcores}
    texts = {name: vmcoreinfo_of(path) for name, path in dumps.items()}
    pieces: list[tuple[int, str, Path, list[Change]]] = []
    n_changes: Counter[str] = Counter()
    for name, path in dumps.items():
        if not re.search(options.dump, name):
            continue
        others = {other: text for other, text in texts.items() if other != name}
        changes = [change for change in changes_of(texts[name], others) if re.search(options.key, change.key)]
        n_changes[name] = len(changes)
        n_pieces = -(-len(changes) // PIECE)
        pieces += [(at, name, path, changes[at::n_pieces]) for at in range(n_pieces)]
    # What is interrupted has tried something of every dump.
    pieces.sort(key=itemgetter(0), reverse=options.from_the_end)

    def try_piece(piece: tuple[int, str, Path, list[Change]]) -> list[Trial]:
        _, name, path, changes = piece
        return list(try_all(name, path, changes, levels, not options.thorough))

    start = time.monotonic()
    counts: dict[str, Counter[str]] = {name: Counter() for name in n_changes}
    wrong: list[str] = []
    listed = (*BAD, *(["extra"] if options.all else []))
    with ThreadPoolExecutor(options.n) as pool:
        for trials in pool.map(try_piece, pieces):
            for trial in trials:
                counts[trial.dump][trial.outcome.kind] += 1
                if trial.outcome.kind in BAD:
                    wrong.append(_words(trial))
                if trial.outcome.kind in listed:
                    print(_words(trial), flush=True)
            if options.json:
                results = {
                    "changes": n_changes,
                    "outcomes": counts,
                    "wrong": wrong,
                    "seconds": time.monotonic() - start,
                }
                options.json.write_text(json.dumps(results, indent=1))
    _print_table(n_changes, counts, time.monotonic() - start)
    return 1 if wrong else 0


def _words(trial: Trial) -> str:
    kind, level, n_pages, detail = trial.outcome
    what = "SILENT LOSS" if kind == "lost" else kind
    where = f" -d {level}: {n_pages} pages" if n_pages else ""
    return f"{what}: {trial.dump}: {trial.change}:{where} {detail[:400]}"


def _print_table(n_changes: Counter[str], counts: dict[str, Counter[str]], seconds: float) -> None:
    kinds = (*GOOD, *BAD)
    print(f"\n{'dump':<26}{'changes':>8}" + "".join(f"{kind:>10}" for kind in kinds))
    for name, n in n_changes.items():
        print(f"{name[-25:]:<26}{n:>8}" + "".join(f"{counts[name][kind]:>10}" for kind in kinds))
    total = sum(counts.values(), Counter())
    print(f"{'all':<26}{sum(n_changes.values()):>8}" + "".join(f"{total[kind]:>10}" for kind in kinds))
    print(f"{seconds:.0f} seconds; outcomes are of scans and of questions that look at what was changed")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
