"""``python -m npdump`` is the ``npdump`` command."""

import sys

from npdump.cli import main

sys.exit(main())
