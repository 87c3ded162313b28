# SPDX-License-Identifier: GPL-2.0-or-later
"""``make faults``: each call on files fails once with each errno, signals come at random moments.

``python -m tests.faults [--scenario REGEX] [--calls N] [--signals N] [--call REGEX]``; gcc is needed, and strace(1) for
calls that aren't made on files. The exit code is 1 if anything looked whole and wasn't, or npdump ended in another way
than with one line.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.injection import Stage
from tests.faults.scenarios import SCENARIOS, prepare
from tests.faults.signals import duration, moments, try_signal

if TYPE_CHECKING:
    from tests.faults.scenarios import Scenario


def main(argv: list[str]) -> int:
    """Try all faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--scenario", default="", help="only those in whose name this regular expression is found")
    parser.add_argument("--call", default="", help="only such system calls")
    parser.add_argument(
        "--calls", type=int, default=1 << 30, help="fail in all ways at most so many calls of each kind, others in one"
    )
    parser.add_argument("--signals", type=int, default=16, help="signals of each kind for each scenario")
    options = parser.parse_args(argv)
    chosen = [scenario for scenario in SCENARIOS if re.search(options.scenario, scenario.name)]
    rows = [(scenario.name, *_try_all(scenario, options)) for scenario in chosen]
    columns = sorted({name for _, n_tried, _ in rows for name in n_tried})
    print(f"\n{'':<16}{'all':>7}{'wrong':>7}  " + " ".join(columns))
    for name, n_tried, n_wrong in rows:
        print(f"{name:<16}{n_tried.total():>7}{n_wrong:>7}  " + " ".join(f"{n_tried[c]:>{len(c)}}" for c in columns))
    print(f"{'all':<16}{sum(n.total() for _, n, _ in rows):>7}{sum(wrong for *_, wrong in rows):>7}")
    return 1 if any(wrong for *_, wrong in rows) else 0


def _try_all(scenario: Scenario, options: argparse.Namespace) -> tuple[Counter[str], int]:
    """Try all faults and signals in a scenario; return how many of each, and how many of all went wrong."""
    n_tried: Counter[str] = Counter()
    n_wrong = 0
    with tempfile.TemporaryDirectory(prefix="npdump-faults-") as name:
        prepare(scenario, Path(name))
        stage = Stage(scenario, Path(name))
        tries = [(fault, stage.try_fault) for fault in stage.faults(options.calls)]
        if shutil.which("strace"):
            tries += [(fault, stage.try_process_fault) for fault in stage.process_faults()]
        for fault, try_it in tries:
            if re.search(options.call, fault.call):
                n_tried[fault.call] += 1
                n_wrong += _report(scenario.name, str(fault), try_it(fault))
        seconds = duration(stage) if options.signals else 0
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            for at in moments(seconds, options.signals, number):
                is_hit, wrong = try_signal(stage, number, at)
                n_tried[number.name] += is_hit
                n_wrong += _report(scenario.name, f"{number.name} after {at:.3f} s", wrong)
    print(f"{scenario.name}: {n_tried.total()} tried, {n_wrong} wrong", flush=True)
    return n_tried, n_wrong


def _report(scenario: str, what: str, wrong: list[str]) -> int:
    for text in wrong:
        print(f"{scenario}: {what}: {text}", flush=True)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
