# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump compare``: are these dumps the same, and if not, what differs first."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING

from npdump.compare import CannotCompare, Comparison, compare
from npdump.compare.report import as_json, as_junit, as_text
from npdump.dump import Dump
from npdump.errors import AddressError, FactError, MemmapError, NpdumpError
from npdump.sinks.file import FileSink

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter
    from npdump.memory_map import MemoryMap

__all__ = ["run"]

DIFFERENT = 1


def run(options: Options, report: Reporter) -> int:
    """Compare the first dump with each other one.

    Returns
    -------
    int
        0 if they are all the same, 1 if one is different.

    Raises
    ------
    CannotCompare
        If one can't be read, or has too little in common with the first: exit code 2.
    """
    try:
        found = [_compare(options, report, other) for other in options.vmcores[1:]]
    except NpdumpError as error:
        raise CannotCompare(str(error)) from error
    if options.junit is not None:
        _save(as_junit(found), options.junit)
    if options.json:
        answers = [as_json(one) for one in found]
        report.answer(json.dumps(answers[0] if len(answers) == 1 else answers, indent=1))
    else:
        report.answer("\n\n".join(map(as_text, found)))
    return 0 if all(one.is_same for one in found) else DIFFERENT


def _compare(options: Options, report: Reporter, other_path: str) -> Comparison:
    with ExitStack() as stack:
        # Each pair is opened by itself: the two threads of a comparison share no file.
        one, other = (
            stack.enter_context(
                Dump(
                    path,
                    vmlinux=options.vmlinux,
                    vmcoreinfo=options.vmcoreinfo,
                    use_mmap=not options.non_mmap,
                    work_dir=options.work_dir,
                    observer=report,
                )
            )
            for path in (options.vmcores[0], other_path)
        )
        return compare(
            one.source,
            other.source,
            pages=_pages(one, other),
            compares_stored=options.compares_stored,
            allowed=dict(options.allowed or ()),
            observer=report,
        )


def _pages(*dumps: Dump) -> MemoryMap | None:
    """Return the memory map of the first dump that tells what its pages are."""
    for dump in dumps:
        try:
            dump.pages.max_mapnr  # noqa: B018  # the memory map is looked for
        except (FactError, AddressError, MemmapError):
            continue
        return dump.pages
    return None


def _save(text: str, path: str) -> None:
    sink = FileSink(path, True)
    try:
        sink.write(0, text.encode("utf-8", "surrogateescape"))
        sink.close()
    except BaseException:
        sink.discard()
        raise
