# SPDX-License-Identifier: GPL-2.0-or-later
"""``make bench``: npdump beside makedumpfile on the vmcore of the demo, or on those that NPDUMP_BENCH names.

The table in BENCHMARKS.md, and the picture beside it, become those of this run if it was of vmcores that are named: the
demo's has no pages to compress but those that decide what is left out.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tests.bench import versus
from tests.fixtures.expand import expand

FIXTURE = "x86_64-6.1"
KEPT = [
    "--runs",
    "3",
    "--scan",
    "256G",
    "--refilter",
    "4G",
    "--plot",
    "docs/benchmarks.svg",
    "--update",
    "BENCHMARKS.md",
]

if vmcores := os.environ.get("NPDUMP_BENCH", "").split():
    versus.main([*KEPT, *sys.argv[1:], *vmcores])
else:
    with tempfile.TemporaryDirectory() as folder:
        vmcore = Path(folder) / FIXTURE
        expand(FIXTURE, vmcore)
        versus.main([*sys.argv[1:], str(vmcore)])
