# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump collector``: what npdump needs in a capture kernel, which files, and whether all of it is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from npdump.cli import capture
from npdump.errors import UsageError

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["run"]

_MIB = 1 << 20


def run(options: Options, report: Reporter) -> int:
    """Do a task: ``check``, ``files`` or ``install``; the exit code of ``check`` says whether all is there.

    Raises
    ------
    UsageError
        If it's no task of these, or ``install`` without a folder.
    """
    (task,) = options.tasks
    if (task == "install") != bool(options.folders):
        raise UsageError("collector: install takes a FOLDER, check and files take none; see npdump --help")
    if task == "check":
        return _check(report)
    if task == "files":
        report.answer("\n".join(map(str, capture.find_files().paths)))
        return 0
    if task == "install":
        files = capture.find_files()
        n_bytes = capture.install(files, Path(options.folders[0]))
        for line in files.missing:
            report.warn(f"collector: {line}")
        report.answer(f"{len(files.paths)} files, {n_bytes / _MIB:.1f} MiB in {options.folders[0]}")
        return 0
    raise UsageError(f"collector {task}: the tasks are check, files and install")


def _check(report: Reporter) -> int:
    from npdump.cli import readiness

    files = capture.find_files()
    findings = readiness.look(files)
    report.answer("\n".join(finding.line for finding in findings))
    return 1 if any(finding.is_needed for finding in findings) else 0
