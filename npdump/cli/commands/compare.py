# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump compare``: are these dumps the same, and if not, what differs first."""

from __future__ import annotations

import json
import os
from contextlib import closing
from typing import TYPE_CHECKING

from npdump.answers.skeleton import Skeleton, differences, make_skeleton
from npdump.cli.files import whole_file
from npdump.compare import CannotCompare, Comparison, compare
from npdump.compare.report import as_json, as_junit, as_text
from npdump.dump import Dump
from npdump.errors import NpdumpError, UsageError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["run"]

DIFFERENT = 1

MAX_SKELETON_NBYTES = 1 << 26
"""A skeleton has some 60 bytes for 64 MiB of memory."""


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
    skeleton = _skeleton(options.vmcores[0])
    if skeleton is not None:
        return _compare_with_skeleton(options, report, skeleton)
    try:
        found = _compared(options, report)
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


def _skeleton(path: str) -> Skeleton | None:
    """Return the skeleton that a file holds, None if it holds something else."""
    try:
        with open(path, "rb") as file:
            if file.read(1) != b"{" or os.fstat(file.fileno()).st_size > MAX_SKELETON_NBYTES:
                return None
            return Skeleton.from_json((b"{" + file.read()).decode("utf-8", "replace"))
    except OSError:
        return None  # who opens it as a dump says why
    except ValueError as error:
        raise CannotCompare(f"{path}: {error}") from error


def _compare_with_skeleton(options: Options, report: Reporter, skeleton: Skeleton) -> int:
    if options.junit is not None or options.allowed is not None or options.compares_stored:
        raise UsageError("--junit, --allow and --bytes need a dump to compare with: a skeleton has no pages")
    answers: dict[str, list[str]] = {}
    for path in options.vmcores[1:]:
        try:
            with Dump(path, use_mmap=not options.non_mmap, work_dir=options.work_dir, observer=report) as dump:
                answers[path] = differences(skeleton, make_skeleton(dump.source))
        except NpdumpError as error:
            raise CannotCompare(str(error)) from error
    if options.json:
        report.answer(json.dumps(answers, indent=1))
    else:
        report.answer(
            "\n".join(
                "\n".join([f"{path}: {'different' if words else 'the same'}", *words])
                for path, words in answers.items()
            )
        )
    return DIFFERENT if any(answers.values()) else 0


def _compared(options: Options, report: Reporter) -> list[Comparison]:
    """Compare the first dump with the others, of which one at a time is open."""
    found = []
    with closing(_dumps(options, report)) as dumps, next(dumps) as first:
        for other in dumps:
            with other:
                found.append(_compare(options, report, first, other))
    if not found:
        raise UsageError("compare: all files are parts of one split dump: give one to compare it with")
    return found


def _dumps(options: Options, report: Reporter) -> Generator[Dump]:
    """Yield the dumps, opened; the files of a split one follow each other, in any order."""
    parts: list[str] = []
    unfinished: Dump | None = None
    try:
        for path in options.vmcores:
            if unfinished is not None:
                try:
                    dump = _open(options, report, [*parts, path])
                except NpdumpError:
                    # It is the first part of another dump.
                    yield unfinished
                    parts, unfinished = [], None
                else:
                    unfinished.close()
                    unfinished = dump
            unfinished = unfinished or _open(options, report, [path])
            parts.append(path)
            if unfinished.source.history.missing is None:
                yield unfinished
                parts, unfinished = [], None
        if unfinished is not None:
            yield unfinished
    finally:
        if unfinished is not None:
            unfinished.close()


def _open(options: Options, report: Reporter, paths: Sequence[str]) -> Dump:
    dump = Dump(
        *paths,
        vmlinux=options.vmlinux,
        vmcoreinfo=options.vmcoreinfo,
        use_mmap=not options.non_mmap,
        work_dir=options.work_dir,
        observer=report,
    )
    try:
        dump.source  # noqa: B018  # it is opened now
    except BaseException:
        dump.close()
        raise
    return dump


def _compare(options: Options, report: Reporter, one: Dump, other: Dump) -> Comparison:
    return compare(
        one.source,
        other.source,
        pages=one.pages_if_known() or other.pages_if_known(),
        compares_stored=options.compares_stored,
        allowed=dict(options.allowed or ()),
        observer=report,
    )


def _save(text: str, path: str) -> None:
    with whole_file(path, True) as sink:
        sink.write(0, text.encode("utf-8", "surrogateescape"))
