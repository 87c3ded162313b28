# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m npdump`` is the ``npdump`` command."""

import sys

from npdump.cli.main import main

sys.exit(main())
