# SPDX-License-Identifier: GPL-2.0-or-later
"""The ``npdump`` command, and ``python -m npdump``."""

import signal
import sys

# Until `npdump.cli.main` has a better answer: a traceback through half an import helps nobody.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from npdump.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
