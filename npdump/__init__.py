# SPDX-License-Identifier: GPL-2.0-or-later
"""npdump: make small crash dumps by leaving out the pages that nobody needs.

The pipeline, one module or package per word:

    storage → sources → arch → kernel → pages → encode → writers → sinks

`npdump.open` is the way in:

    with npdump.open("vmcore") as dump:
        print(dump.info.release, dump.info.panic)
        dump.write("small", level=31, codec="zlib")

Names are loaded when they are used: importing npdump costs nothing.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # typing's own costs half of what Python needs to start
if TYPE_CHECKING:
    from npdump import errors, fleet
    from npdump.dump import Dump, open
    from npdump.facts import Facts
    from npdump.observer import Observer
    from npdump.pages.policy import DumpLevel, PageClass

__version__ = "0.1.0"

__all__ = ["Dump", "DumpLevel", "Facts", "Observer", "PageClass", "errors", "fleet", "open"]

_HOMES = {
    "Dump": "npdump.dump",
    "DumpLevel": "npdump.pages.policy",
    "Facts": "npdump.facts",
    "Observer": "npdump.observer",
    "PageClass": "npdump.pages.policy",
    "open": "npdump.dump",
}


def __getattr__(name: str) -> object:
    if name in ("errors", "fleet"):
        return import_module(f"npdump.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'npdump' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
