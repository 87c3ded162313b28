# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump map``: a picture of physical memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from npdump.cli.inputs import open_dump
from npdump.errors import SinkError, UsageError

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["run"]

_FORMATS = (".png", ".svg", ".pdf")


def run(options: Options, report: Reporter) -> None:
    """Draw the map, and write it to a file that must not exist without ``-f``.

    Raises
    ------
    UsageError, SinkError
    MissingDependency
        If matplotlib isn't installed.
    """
    from npdump.extras.plot import save

    (path,) = options.dumpfiles
    if not path.endswith(_FORMATS):
        raise UsageError(f"{path}: a picture is a file whose name ends in {', '.join(_FORMATS)}")
    if os.path.lexists(path) and not options.force:
        raise SinkError(f"{path}: exists already; -f overwrites it")
    with open_dump(options, report) as dump:
        name = os.path.basename(dump.path)
        figure = dump.pages.plot("map", title=f"Physical memory of {name}", layout=options.layout or "hilbert")
    part = f"{path}.part{os.path.splitext(path)[1]}"
    try:
        save(figure, part)
        os.replace(part, path)
    except OSError as error:
        raise SinkError(f"{path}: can't be written: {error.strerror}") from error
    finally:
        if os.path.lexists(part):
            os.unlink(part)
    report.message(f"The picture is saved to {path}.")
