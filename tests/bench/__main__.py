# SPDX-License-Identifier: GPL-2.0-or-later
"""``make bench``: npdump beside makedumpfile on the vmcore of the demo, or on those that NPDUMP_BENCH names."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tests.bench import versus
from tests.fixtures.expand import expand

FIXTURE = "x86_64-6.1"

if vmcores := os.environ.get("NPDUMP_BENCH", "").split():
    versus.main([*sys.argv[1:], *vmcores])
else:
    with tempfile.TemporaryDirectory() as folder:
        vmcore = Path(folder) / FIXTURE
        expand(FIXTURE, vmcore)
        versus.main([*sys.argv[1:], str(vmcore)])
