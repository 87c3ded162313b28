# SPDX-License-Identifier: GPL-2.0-or-later
"""npdump: make small crash dumps by leaving out the pages that nobody needs.

The pipeline, one module or package per word:

    storage → source → facts → arch → memory → memmap → pages → bitmap → stream → codec → writer → sink
"""

__version__ = "0.1.0"
