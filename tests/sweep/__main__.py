# SPDX-License-Identifier: GPL-2.0-or-later
"""``make sweep``: every value of every VMCOREINFO changed, and a table of what came of it.

``python -m tests.sweep [-n N] [--key REGEX] [--dump REGEX] [--levels 31,16] [--csv FILE] [VMCORE...]``; VMCOREs are
further dumps, as of other kernels. The exit code is 1 if pages were lost without a word, or anything else is wrong.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
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
PIECE = 150


def main(argv: list[str]) -> int:
    """Run the sweep."""
    parser = argparse.ArgumentParser(prog="python -m tests.sweep")
    parser.add_argument("-n", type=int, default=2, help="processes")
    parser.add_argument("--key", default="", help="only keys in which this regular expression is found")
    parser.add_argument("--dump", default="", help="only dumps in whose name this regular expression is found")
    parser.add_argument("--levels", default=",".join(map(str, LEVELS)), help="dump levels")
    parser.add_argument("--all", action="store_true", help="list more kept without a word as well")
    parser.add_argument("vmcores", nargs="*", type=Path, help="further ELF vmcores")
    options = parser.parse_args(argv)
    levels = tuple(int(level) for level in options.levels.split(","))
    dumps = {name: harness.distilled_vmcore(name) for name in names()} | {str(path): path for path in options.vmcores}
    texts = {name: vmcoreinfo_of(path) for name, path in dumps.items()}
    pieces: list[tuple[str, Path, list[Change]]] = []
    n_changes: Counter[str] = Counter()
    for name, path in dumps.items():
        if not re.search(options.dump, name):
            continue
        others = {other: text for other, text in texts.items() if other != name}
        changes = [change for change in changes_of(texts[name], others) if re.search(options.key, change.key)]
        n_changes[name] = len(changes)
        pieces += [(name, path, changes[at : at + PIECE]) for at in range(0, len(changes), PIECE)]
    start = time.monotonic()
    counts: dict[str, Counter[str]] = {name: Counter() for name in n_changes}
    n_bad = 0
    listed = (*BAD, *(["extra"] if options.all else []))
    with ThreadPoolExecutor(options.n) as pool:
        for trials in pool.map(lambda piece: list(try_all(piece[0], piece[1], piece[2], levels)), pieces):
            for trial in trials:
                counts[trial.dump][trial.outcome.kind] += 1
                n_bad += trial.outcome.kind in BAD
                if trial.outcome.kind in listed:
                    _print(trial)
    _print_table(n_changes, counts, time.monotonic() - start)
    return 1 if n_bad else 0


def _print(trial: Trial) -> None:
    kind, level, n_pages, detail = trial.outcome
    what = "SILENT LOSS" if kind == "lost" else kind
    where = f" -d {level}: {n_pages} pages" if n_pages else ""
    print(f"{what}: {trial.dump}: {trial.change}:{where} {detail[:400]}", flush=True)


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
