# SPDX-License-Identifier: GPL-2.0-or-later
"""``make faults``: each system call on files fails once with each errno, signals come at random moments.

``python -m tests.faults [--scenario REGEX] [--calls N] [--signals N] [--call REGEX]``; strace(1) is needed. The exit
code is 1 if anything looked whole and wasn't, or npdump ended in another way than with one line.
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

from tests.faults.injection import Stage
from tests.faults.scenarios import SCENARIOS, prepare
from tests.faults.signals import duration, moments, try_signal


def main(argv: list[str]) -> int:
    """Try all faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--scenario", default="", help="only those in whose name this regular expression is found")
    parser.add_argument("--call", default="", help="only such system calls")
    parser.add_argument("--calls", type=int, default=12, help="at most so many calls of each kind")
    parser.add_argument("--signals", type=int, default=16, help="signals of each kind for each scenario")
    options = parser.parse_args(argv)
    if shutil.which("strace") is None:
        print("strace is not installed")
        return 1
    n_tried: Counter[str] = Counter()
    n_wrong: Counter[str] = Counter()
    for scenario in SCENARIOS:
        if not re.search(options.scenario, scenario.name):
            continue
        with tempfile.TemporaryDirectory(prefix="npdump-faults-") as name:
            folder = Path(name)
            prepare(scenario, folder)
            stage = Stage(scenario, folder)
            for fault in stage.faults(options.calls):
                if re.search(options.call, fault.call):
                    n_tried[fault.call] += 1
                    n_wrong[fault.call] += _report(scenario.name, str(fault), stage.try_fault(fault))
            seconds = duration(stage)
            for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                for at in moments(seconds, options.signals, number):
                    is_hit, wrong = try_signal(stage, number, at)
                    n_tried[number.name] += is_hit
                    n_wrong[number.name] += _report(scenario.name, f"{number.name} after {at:.3f} s", wrong)
    print(f"\n{'':<20}{'tried':>8}{'wrong':>8}")
    for what, n in sorted(n_tried.items()):
        print(f"{what:<20}{n:>8}{n_wrong[what]:>8}")
    print(f"{'all':<20}{n_tried.total():>8}{n_wrong.total():>8}")
    return 1 if n_wrong.total() else 0


def _report(scenario: str, what: str, wrong: list[str]) -> int:
    for text in wrong:
        print(f"{scenario}: {what}: {text}", flush=True)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
