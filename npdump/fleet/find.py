# SPDX-License-Identifier: GPL-2.0-or-later
"""Which dumps a fleet has: those of folders, globs, lists and stores; and where their outputs go."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from npdump.errors import SourceError, UsageError
from npdump.storage import is_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Found", "find_dumps", "output_names"]

_OURS = (".part", ".sqlite", ".sqlite-wal", ".sqlite-shm")
"""Ends of names of what fleets make themselves."""

_WRAPPINGS = (".gz", ".xz", ".zst", ".lz4")


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is, or may be, a dump.

    Attributes
    ----------
    path : str
        Or a URL.
    nbytes : int or None
        None if it can not be had: reading it will say why.
    mtime_ns : int
        When it was last changed; 0 if that is not known.
    is_named : bool
        Whether the user named it; else it was in a folder, and may be something else.
    root : str
        The folder that its output's name is relative to.
    """

    path: str
    nbytes: int | None
    mtime_ns: int
    is_named: bool
    root: str | None


def find_dumps(
    sources: Iterable[str | os.PathLike[str]],
    *,
    avoid: str | None = None,
) -> list[Found]:
    """Find the files of a fleet, each once, in the order of their paths.

    Parameters
    ----------
    sources : iterable of str or path-like
        Files, folders (all that is in them), globs (``*``, ``?``, ``[…]``, and ``**`` for any folders), ``@FILE`` for a
        file with one of these a line, and URLs of objects; one that ends with ``/`` stands for all below it.
    avoid : str, optional
        A folder that outputs go to, and whose files are no inputs.

    Raises
    ------
    SourceError
        If there is nothing of that name.
    """
    found: dict[str, Found] = {}
    for source in sources:
        for one in _expand(os.fspath(source), avoid):
            known = found.get(one.path)
            if known is None or one.is_named > known.is_named:
                found[one.path] = one
    return [found[path] for path in sorted(found)]


def _expand(source: str, avoid: str | None) -> Iterator[Found]:
    if source.startswith("@"):
        for line in _lines(source[1:]):
            yield from _expand(line, avoid)
    elif is_url(source):
        yield from _of_url(source)
    elif os.path.isdir(source):
        yield from _in_folder(source, avoid)
    elif not os.path.lexists(source) and glob.has_magic(source):
        yield from _matching(source, avoid)
    else:
        yield _file(source, None, is_named=True)


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return [line for text in file if (line := text.rstrip("\n")).strip()]
    except OSError as error:
        raise SourceError(f"{path}: the list of dumps can't be read: {error.strerror}", path=path) from error


def _of_url(url: str) -> Iterator[Found]:
    from npdump.storage._stores import list_objects, locate

    if not url.endswith("/"):
        yield Found(locate(url).url, None, 0, True, None)
        return
    for path, nbytes, mtime_ns in list_objects(url):
        if not path.endswith(_OURS):
            yield Found(path, nbytes, mtime_ns, False, locate(url).url.rstrip("/"))


def _in_folder(folder: str, avoid: str | None) -> Iterator[Found]:
    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename}: can't be listed: {error.strerror}", path=error.filename) from error

    avoided = None if avoid is None else os.path.realpath(avoid)
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [
            name
            for name in sorted(folders)
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) != avoided
        ]
        for name in names:
            path = os.path.join(parent, name)
            if not name.startswith(".") and not name.endswith(_OURS) and os.path.isfile(path):
                yield _file(path, folder, is_named=False)


def _matching(pattern: str, avoid: str | None) -> Iterator[Found]:
    paths = sorted(glob.glob(pattern, recursive=True))
    if not paths:
        raise SourceError(f"{pattern}: no file has such a name", path=pattern)
    fixed = next(i for i, part in enumerate(pattern.split(os.sep)) if glob.has_magic(part))
    root = os.sep.join(pattern.split(os.sep)[:fixed])
    for path in paths:
        if os.path.isdir(path):
            if pattern.endswith("**"):
                continue  # its files match too
            yield from _in_folder(path, avoid)
        else:
            yield _file(path, root, is_named=True)


def _file(path: str, root: str | None, is_named: bool) -> Found:
    path = os.path.abspath(path)  # another worker may be in another folder
    try:
        status = os.stat(path)
    except OSError:
        return Found(path, None, 0, True, root)  # the dump is there by name, and why it can't be read is its failure
    return Found(path, status.st_size, status.st_mtime_ns, is_named, root)


def output_names(dumps: Sequence[Found]) -> dict[str, str]:
    """Return a name for the output of each dump: its path below the source that it was found by.

    Parameters
    ----------
    dumps : sequence of Found

    Raises
    ------
    UsageError
        If two would have the same.

    Examples
    --------
    >>> output_names([Found("/crash/a/vmcore.zst", 1, 0, False, "/crash")])
    {'/crash/a/vmcore.zst': 'a/vmcore'}
    """
    names = {}
    common = _common_folder([one.path for one in dumps if one.root is None])
    for one in dumps:
        name = os.path.relpath(_absolute(one.path), common if one.root is None else _absolute(one.root))
        for wrapping in _WRAPPINGS:
            name = name.removesuffix(wrapping)
        names[one.path] = name
    for name, paths in groupby(sorted(names, key=lambda path: names[path]), key=lambda path: names[path]):
        first, *others = paths
        if others:
            raise UsageError(
                f"{first} and {others[0]}: the outputs of both would be called {name}: name the folder above them, or "
                "filter them one after the other"
            )
    return names


def _common_folder(paths: Sequence[str]) -> str:
    return os.path.commonpath([os.path.dirname(_absolute(path)) for path in paths]) if paths else ""


def _absolute(path: str) -> str:
    """Return a path from the root on; of a URL, all after its scheme."""
    return f"/{path.partition('://')[2]}" if "://" in path else os.path.abspath(path)
