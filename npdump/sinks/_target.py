# SPDX-License-Identifier: GPL-2.0-or-later
"""The file behind an output's name: a new one of our own, never one that somebody else has hold of.

A name that is free gets its file at once, marked as incomplete by what is written first. Where there is a file already,
``-f`` makes another one beside it, ``NAME.part``, which takes its place when it is whole, or earlier if the file
system needs the old one's room. A lock (flock(2)) on what is being written keeps a second run away from it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from npdump.errors import SinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Target", "is_at", "open_target"]

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PROBE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MODE = 0o600
_MAX_LINKS = 40
"""As many symbolic links as Linux follows."""

_NO_FILE_BESIDE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG}


class Target(NamedTuple):
    """An open file to write to.

    Attributes
    ----------
    fd : int
    path : str
        Its name when it is whole.
    part : str or None
        Its name until then, None if that is ``path``.
    replaced : os.stat_result or None
        What was at ``path``.
    """

    fd: int
    path: str
    part: str | None
    replaced: os.stat_result | None


def open_target(path: str, force: bool, keep_away: bool, check: Callable[[os.stat_result], None]) -> Target:
    """Make a file for an output, or open the device that the name leads to.

    Parameters
    ----------
    path : str
    force : bool
        Replace what is there.
    keep_away : bool
        Keep the name free until the file is whole.
    check : callable
        Takes the status of what is there, and raises if it must not be replaced.

    Raises
    ------
    SinkError
        If there is something and ``force`` is false, if another run is writing it, or if the file cannot be made.
    """
    if not keep_away:
        with _explained(path, "can't be created"), suppress(FileExistsError):
            return Target(_locked(os.open(path, _NEW, _MODE), path, path), path, None, None)
    status = _status_of(path)
    if status is None:
        return Target(_beside(path), path, _part_of(path), None)
    check(status)
    if not force:
        raise SinkError(f"{path}: exists already: give -f to overwrite it, or another name")
    if stat.S_ISDIR(status.st_mode):
        raise SinkError(f"{path}: is a directory: give the name of a file in it")
    place = _followed(path)
    if not stat.S_ISREG(status.st_mode):
        with _explained(path, "can't be written"):
            return Target(_locked(os.open(place, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), path), path, None, status)
    _check_owner(path, place, status)
    _check_lock(path, place)
    try:
        return Target(_beside(place), place, _part_of(place), status)
    except SinkError as error:
        cause = error.__cause__
        if not (isinstance(cause, OSError) and cause.errno in _NO_FILE_BESIDE and status.st_uid == os.geteuid()):
            raise
    with _explained(path, "can't be overwritten"):
        fd = _locked(os.open(place, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), path, place)
        os.ftruncate(fd, 0)
        os.fchmod(fd, _MODE)
    return Target(fd, place, None, status)


def is_at(fd: int, path: str) -> bool:
    """Return whether a name is that of an open file, as far as can be told."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False
    except OSError:
        # Nothing says that somebody took it away.
        return True


def _part_of(path: str) -> str:
    return f"{path}.part"


def _status_of(path: str) -> os.stat_result | None:
    """Return the status of what a name leads to, None if there is nothing of that name."""
    try:
        return os.stat(path)
    except OSError as error:
        if os.path.islink(path):
            raise SinkError(
                f"{path}: is a symbolic link that leads nowhere: {error.strerror}: remove it, or give another name "
                "for the output"
            ) from error
        if isinstance(error, FileNotFoundError):
            return None
        raise SinkError(f"{path}: can't be created: {error.strerror}") from error


def _followed(path: str) -> str:
    """Return where a name leads, through no symbolic link but one's own and the administrator's."""
    place = path
    for _ in range(_MAX_LINKS):
        with _explained(path, "can't be overwritten"):
            status = os.lstat(place)
            if not stat.S_ISLNK(status.st_mode):
                return place
            if status.st_uid not in (os.geteuid(), 0):
                raise SinkError(f"{path}: is a symbolic link that belongs to another user: give the name of a file")
            place = os.path.join(os.path.dirname(place), os.readlink(place))
    raise SinkError(f"{path}: too many symbolic links: give the name of a file")


def _check_owner(path: str, place: str, status: os.stat_result) -> None:
    """Find out early whether the file can be replaced at the end."""
    with _explained(path, "can't be overwritten"):
        directory = os.stat(os.path.dirname(place) or ".")
    owners = (status.st_uid, directory.st_uid)
    if directory.st_mode & stat.S_ISVTX and os.geteuid() not in (0, *owners):
        raise SinkError(f"{path}: belongs to another user, in a directory where only he may replace it")


def _check_lock(path: str, place: str) -> None:
    """Find out whether another run is writing to a file."""
    try:
        fd = os.open(place, _PROBE)
    except OSError:
        return
    try:
        _lock(fd, path)
    finally:
        with suppress(OSError):
            os.close(fd)


def _beside(path: str) -> int:
    """Make the file that another one's place is for; what a run left that was killed goes."""
    part = _part_of(path)
    with _explained(part, "can't be created"):
        with suppress(FileExistsError):
            return _locked(os.open(part, _NEW, _MODE), path, part)
        if not stat.S_ISREG(os.lstat(part).st_mode):
            raise SinkError(f"{part}: is in the way of the new file: remove it, or give another name for the output")
        _check_lock(path, part)
        os.unlink(part)
        return _locked(os.open(part, _NEW, _MODE), path, part)


def _locked(fd: int, path: str, place: str | None = None) -> int:
    """Lock a file that was just made or opened, unless another run has taken it away by then."""
    try:
        _lock(fd, path)
        if place is not None and not is_at(fd, place):
            raise _is_busy(path)
    except BaseException:
        with suppress(OSError):
            os.close(fd)
        raise
    return fd


def _lock(fd: int, path: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _is_busy(path) from error
    except OSError:
        # Some file systems have no locks; `npdump.sinks.file.FileSink.close` looks again.
        pass


def _is_busy(path: str) -> SinkError:
    return SinkError(f"{path}: another npdump is writing it: wait for its end, or give another name")


@contextmanager
def _explained(path: str, what: str) -> Iterator[None]:
    """Say in one line what the system says of a path."""
    try:
        yield
    except OSError as error:
        raise SinkError(f"{path}: {what}: {error.strerror}") from error
