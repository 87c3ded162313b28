# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of a fleet's dumps: one SQLite file, in which each dump is a row of the table ``dumps``.

A row is there, as ``begun``, before its dump is handed out, and has its answer in the same moment in which it is known:
what is killed costs the dumps that were under way. The write-ahead log (https://www.sqlite.org/wal.html) makes that
cheap and lets others read meanwhile; it needs a file system of this machine.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from npdump.errors import NoSpace, SinkError, SourceError
from npdump.pages.kinds import PageKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from npdump.fleet.find import Found
    from npdump.fleet.work import Row

__all__ = ["COLUMNS", "Catalogue", "columns_of", "read_rows"]

_SCHEMA = 1
_APPLICATION_ID = 0x6E706466  # "npdf": file(1) and others may tell by it whose it is

_LOG_INDEX_NBYTES = 32 << 10
"""SQLite makes room for so much of it at a time (https://www.sqlite.org/walformat.html)."""

COLUMNS = {
    "dump": "TEXT PRIMARY KEY",  # path or URL
    "state": "TEXT NOT NULL",  # begun, done, failed, or other: no dump at all
    "asked": "TEXT NOT NULL",
    "file_nbytes": "INTEGER",
    "mtime_ns": "INTEGER",
    "format": "TEXT",
    "machine": "TEXT",
    "release": "TEXT",
    "build_id": "TEXT",
    "node": "TEXT",
    "crash_time": "TEXT",
    "uptime_seconds": "REAL",
    "panic": "TEXT",
    "signature": "TEXT",
    "reason": "TEXT",
    "trace": "TEXT",
    "n_cpus": "INTEGER",
    "page_size": "INTEGER",
    "memory_nbytes": "INTEGER",
    "data_nbytes": "INTEGER",
    "n_lost": "INTEGER",
    **{f"{kind.name.lower()}_nbytes": "INTEGER" for kind in PageKind if kind != PageKind.ABSENT},
    "output": "TEXT",
    "output_nbytes": "INTEGER",
    "dump_level": "INTEGER",
    "codec": "TEXT",
    "kept_nbytes": "INTEGER",
    "left_out_nbytes": "INTEGER",
    "seconds": "REAL",
    "worker_nbytes": "INTEGER",  # the most memory that was resident
    "missing": "TEXT",
    "warnings": "TEXT",
    "error_kind": "TEXT",
    "error": "TEXT",
    "finished_at": "TEXT",
}
"""By name, what SQLite is told of them."""


class Catalogue:
    """The catalogue that a fleet writes.

    Parameters
    ----------
    path : str
        Is made, readable by its owner alone, if it is not there.

    Raises
    ------
    SourceError
        If it is something else.
    SinkError
        If it can not be made, or another fleet is writing it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SinkError(f"{path}: the catalogue can't be made: {error.strerror}", path=path) from error
        try:
            self._lock()
            with _explained(path):
                self._database = sqlite3.connect(path, isolation_level=None)
                self._prepare()
        except BaseException:
            os.close(self._fd)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            text = f"{self.path}: another fleet is writing it: wait for its end, or give another --catalogue"
            raise SinkError(text, path=self.path) from error

    def _prepare(self) -> None:
        execute = self._database.execute
        if os.fstat(self._fd).st_size:
            _check(self._database, self.path)
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
        execute(f"CREATE TABLE IF NOT EXISTS dumps ({columns}) WITHOUT ROWID")
        execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        execute(f"PRAGMA user_version = {_SCHEMA}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it; what is in the write-ahead log goes into the file."""
        with suppress(sqlite3.Error):
            self._database.close()
        os.close(self._fd)

    def states(self, asked: str) -> dict[str, tuple[str, int | None, int | None]]:
        """Return state, size and time of the dumps of which just this was asked, by path."""
        with _explained(self.path):
            rows = self._database.execute(
                "SELECT dump, state, file_nbytes, mtime_ns FROM dumps WHERE asked = ?", (asked,)
            )
            return {path: (state, nbytes, mtime_ns) for path, state, nbytes, mtime_ns in rows}

    def begin(self, dump: Found, asked: str, output: str | None) -> None:
        """Note that a dump is handed out; what was known of it goes."""
        self._put(
            {
                "dump": dump.path,
                "state": "begun",
                "asked": asked,
                "file_nbytes": dump.nbytes,
                "mtime_ns": dump.mtime_ns,
                "output": output,
            }
        )

    def end(self, dump: Found, asked: str, row: Row) -> None:
        """Note what became of it."""
        known = {"dump": dump.path, "asked": asked, "file_nbytes": dump.nbytes, "mtime_ns": dump.mtime_ns}
        self._put({**known, **row, "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})

    def _put(self, row: Row) -> None:
        names = ", ".join(row)
        marks = ", ".join("?" * len(row))
        values = [
            value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
            for value in row.values()
        ]
        with _explained(self.path):
            self._database.execute(f"INSERT OR REPLACE INTO dumps ({names}) VALUES ({marks})", values)


def read_rows(path: str) -> list[Row]:
    """Read a catalogue, also one that is being written.

    Parameters
    ----------
    path : str

    Returns
    -------
    list of dict
        By path of the dump; values by name of the column.

    Raises
    ------
    SourceError
        If it is no catalogue.
    """
    if not os.path.exists(path):
        raise SourceError(f"{path}: can't be opened: there is no such catalogue", path=path)
    with _explained(path):
        database = sqlite3.connect(path)
        try:
            _check(database, path)
            names = ", ".join(COLUMNS)
            rows = database.execute(f"SELECT {names} FROM dumps ORDER BY dump").fetchall()
        finally:
            database.close()
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def columns_of(rows: Sequence[Row]) -> dict[str, tuple[str, list[Any]]]:
    """Return the type and the values of each column."""
    return {name: (kind.partition(" ")[0], [row[name] for row in rows]) for name, kind in COLUMNS.items()}


def _check(database: sqlite3.Connection, path: str) -> None:
    ((found,),) = _pragma(database, "application_id")
    ((version,),) = _pragma(database, "user_version")
    if found != _APPLICATION_ID:
        raise SourceError(f"{path}: is a database, but no catalogue of a fleet: give another --catalogue", path=path)
    if version != _SCHEMA:
        raise SourceError(f"{path}: is a catalogue of another npdump (version {version}): begin a new one", path=path)


def _pragma(database: sqlite3.Connection, name: str) -> Iterable[tuple[int]]:
    rows: list[tuple[int]] = database.execute(f"PRAGMA {name}").fetchall()
    return rows


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Say in one line what SQLite says."""
    try:
        yield
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL or (_is_io(error) and _is_full(path)):
            text = f"{path}: the disk is full: make room and start again: what was done is kept"
            raise NoSpace(text, path=path) from error
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise SourceError(f"{path}: is no catalogue: give another --catalogue", path=path) from error
        raise SinkError(f"{path}: the catalogue can't be used: {error}", path=path) from error


def _is_io(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_IOERR


def _is_full(path: str) -> bool:
    """Return whether there is no room: of the file that the write-ahead log is shared by SQLite doesn't say why."""
    with suppress(OSError):
        status = os.statvfs(os.path.dirname(path) or ".")
        return status.f_bavail * status.f_frsize < _LOG_INDEX_NBYTES
    return False
