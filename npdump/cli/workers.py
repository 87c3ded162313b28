# SPDX-License-Identifier: GPL-2.0-or-later
"""Who works on the dumps of a fleet, or on the parts of one, as the command line says it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from npdump.errors import SinkError
from npdump.fleet.child import Limits
from npdump.fleet.parts import PartWork, make_parts
from npdump.fleet.run import on_this_machine
from npdump.storage import is_url

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from npdump.cli.options import Options
    from npdump.cli.report import Reporter
    from npdump.fleet.run import Workers
    from npdump.summary import Summary

__all__ = ["limits_of", "make_split", "opening_of", "whole_path", "workers_of"]


def workers_of(options: Options) -> AbstractContextManager[Workers]:
    """Return the workers: of this machine, or of the cluster that is named."""
    if options.scheduler is None:
        return on_this_machine(options.jobs)
    from npdump.fleet.on_dask import on_scheduler

    return on_scheduler(options.scheduler)


def limits_of(options: Options) -> Limits:
    """Return what one dump may take."""
    return Limits(options.time_limit_seconds, options.memory_limit_nbytes)


def whole_path(path: str) -> str:
    """Return a path that means the same in every process."""
    return path if is_url(path) else os.path.abspath(path)


def opening_of(options: Options) -> dict[str, Any]:
    """Return how workers open dumps."""
    paths = {name: value for name in ("vmlinux", "vmcoreinfo", "work_dir") if (value := getattr(options, name))}
    names = ("override", "vmcoreinfo_at", "machine", "max_unpacked_nbytes", "identity")
    others = {name: value for name in names if (value := getattr(options, name)) not in (None, False)}
    return {name: whole_path(path) for name, path in paths.items()} | others


def make_split(options: Options, writing: dict[str, Any], sync: bool, report: Reporter) -> Summary:
    """Make the parts of a split dump by several workers."""
    outputs = tuple(map(whole_path, options.dumpfiles))
    for path in outputs:
        if not options.force and not is_url(path) and os.path.lexists(path):
            raise SinkError(f"{path}: exists already: give -f to overwrite it, or another name")
    if len(set(outputs)) < len(outputs):
        raise SinkError("two parts have the same name: give each part a name of its own")
    files = {
        "config": options.config and whole_path(options.config),
        "extensions": tuple(whole_path(one) if os.path.exists(one) else one for one in options.extensions),
        "n_threads": options.num_threads or 1,
    }
    inputs = tuple(map(whole_path, options.vmcores))
    work = PartWork(inputs, outputs, options.splitblock_kib, opening_of(options), writing | files, sync)
    with workers_of(options) as workers:
        report.message(f"{len(outputs)} parts, {workers.words}")
        return make_parts(work, workers, report, limits_of(options))
