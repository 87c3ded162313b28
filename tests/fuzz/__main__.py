# SPDX-License-Identifier: GPL-2.0-or-later
"""``make fuzz SECONDS=...``: damaged files of each kind for so long, and a table of what was found.

``python -m tests.fuzz [--seconds N] [--reader REGEX] [--first NUMBER] [--keep FOLDER]``: each reader gets its share of
the seconds. A number is always the same file, so that ``--reader elf --first 1234 --seconds 1`` tries it again. What
ends the process is found as well. With ``--keep``, the first file of each finding is written to a folder.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.campaign import campaign
from tests.fuzz.readers import Fuzzer
from tests.fuzz.seeds import MAKERS


def main(argv: list[str]) -> int:
    """Run the fuzzer."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=70)
    parser.add_argument("--reader", default="", help="only those in whose name this regular expression is found")
    parser.add_argument("--first", type=int, default=0, help="the number of the first file")
    parser.add_argument("--keep", type=Path, help="folder for what is found")
    options = parser.parse_args(argv)
    readers = [reader for reader in MAKERS if re.search(options.reader, reader)]
    rows = []
    for reader in readers:
        kinds: Counter[str] = Counter()
        seen: set[str] = set()
        n_tried, start = 0, time.monotonic()
        for number, findings in campaign(reader, options.seconds / len(readers), options.first):
            n_tried += 1
            for finding in findings:
                kinds[finding.kind] += 1
                # The same place in the code, whatever the numbers are.
                what = f"{finding.kind} {re.sub(r'0x[0-9a-f]+|[0-9]+', 'N', finding.detail)}"
                if what not in seen:
                    seen.add(what)
                    print(f"{reader} {number}: {finding.kind}: {' '.join(finding.args)}: {finding.detail}", flush=True)
                    if options.keep:
                        (options.keep / f"{reader}-{number}").write_bytes(Fuzzer(reader).data(number))
        rows.append((reader, n_tried, time.monotonic() - start, kinds))
    print(f"\n{'reader':<14}{'files':>8}{'seconds':>9}  found")
    for reader, n_tried, seconds, kinds in rows:
        print(f"{reader:<14}{n_tried:>8}{seconds:>9.0f}  {dict(kinds) or 'nothing'}")
    return 1 if any(kinds for *_, kinds in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
