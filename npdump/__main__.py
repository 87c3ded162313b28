# SPDX-License-Identifier: GPL-2.0-or-later
"""The ``npdump`` command, and ``python -m npdump``."""

import os
import signal
import sys
from typing import NoReturn

# Until `npdump.cli.main` has a better answer: a traceback through half an import helps nobody.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from npdump.cli import main as cli

__all__ = ["main"]


def main() -> NoReturn:
    """Run npdump and end the process.

    All files are closed and all threads have ended by then; taking apart all modules, which the interpreter would do
    next, takes a tenth of a short run.
    """
    code = cli.main()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        sys.exit(code)
    os._exit(code)


if __name__ == "__main__":
    main()
