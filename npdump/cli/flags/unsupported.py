# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of makedumpfile that npdump refuses."""

from typing import NamedTuple


class UnsupportedOption(NamedTuple):
    """An option of makedumpfile that npdump knows by name and refuses."""

    flag: str
    metavar: str | None
    purpose: str


UNSUPPORTED_OPTIONS = (
    UnsupportedOption(
        "--eppic",
        "MACRO",
        "it runs programs of its own language; --config FILE or --extension FILE.py erases what one does",
    ),
)
