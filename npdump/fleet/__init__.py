# SPDX-License-Identifier: GPL-2.0-or-later
"""Many dumps: a function of each, on the CPUs of this machine or on a Dask cluster; what `npdump fleet` is made of.

find → child, run, on_dask → work → catalogue → page

Paths travel, arrays never: a worker opens the dump itself, in a process that may run out of memory, take too long or be
killed without harm to the other dumps.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from npdump.fleet.child import Call, Failure, Limits, dumps
from npdump.fleet.find import find_dumps
from npdump.fleet.run import on_this_machine, outcomes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from npdump.dump import Dump

__all__ = ["Result", "Results", "map"]


@dataclass(frozen=True, slots=True)
class Result:
    """What a function said of one dump.

    Attributes
    ----------
    path : str
    value : object
        None if it failed.
    failure : Failure or None
        Its ``kind`` is the name of the exception's class, its ``text`` one line.
    seconds : float
    """

    path: str
    value: Any
    failure: Failure | None
    seconds: float


class Results:
    """An iterator over results, in the order in which they are ready; nothing is done before it is asked for.

    Parameters
    ----------
    results : iterator of Result
    n_dumps : int
    """

    def __init__(self, results: Iterator[Result], n_dumps: int) -> None:
        self._results = results
        self._n_dumps = n_dumps

    def __len__(self) -> int:
        """How many there will be."""
        return self._n_dumps

    def __iter__(self) -> Iterator[Result]:
        return self._results

    def __next__(self) -> Result:
        return next(self._results)

    def to_pandas(self) -> Any:
        """Return all results that were not taken yet as a data frame, a row for each dump, in the order of their paths.

        Values that are dicts become columns by their keys, others one column ``value``.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        MissingDependency
            If pandas is not installed.
        """
        from npdump.extras.pandas_frame import frame_of_rows

        rows = []
        for result in sorted(self, key=lambda result: result.path):
            row: dict[str, Any] = {"dump": result.path}
            if result.failure is None:
                row |= result.value if isinstance(result.value, dict) else {"value": result.value}
            rows.append(row | {"failure": result.failure and result.failure.text, "seconds": result.seconds})
        return frame_of_rows(rows)


def map(
    func: Callable[[Dump], Any],
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    client: Any = None,
    *,
    n_workers: int | None = None,
    time_limit_seconds: float | None = None,
    memory_limit_nbytes: int | None = None,
    **opening: Any,
) -> Results:
    """Call a function with every dump of a fleet.

    Parameters
    ----------
    func : callable
        Takes an opened `npdump.Dump`; what it returns is pickled, and best small. One that is defined in a notebook or
        script needs cloudpickle, which comes with the extra ``fleet``.
    sources : str, path-like, or iterable of these
        Dumps, folders, globs, lists and URLs; see `npdump.fleet.find.find_dumps`.
    client : distributed.Client, optional
        Of the Dask cluster that does the work; by default it is done by processes of this machine.
    n_workers : int, optional
        Processes of this machine; by default as many as there are CPUs.
    time_limit_seconds, memory_limit_nbytes : optional
        What one dump may take.
    **opening
        Further arguments of `npdump.open`.

    Returns
    -------
    Results
        A damaged dump is a result with a ``failure``, and stops no other one.

    Raises
    ------
    SourceError
        If there is nothing of such a name.
    MissingDependency

    Examples
    --------
    >>> from operator import attrgetter
    >>> (result,) = npdump.fleet.map(attrgetter("info.release"), vmcore, n_workers=1)
    >>> result.value, result.failure
    ('6.1.0-56-cloud-amd64', None)
    """
    listed: Sequence[Any] = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    paths = [one.path for one in find_dumps(listed)]
    call = Call(dumps(_Opened(func, opening)), Limits(time_limit_seconds, memory_limit_nbytes))
    return Results(_results(call, paths, client, n_workers), len(paths))


@dataclass(frozen=True, slots=True)
class _Opened:
    """A function of a dump as one of its path."""

    func: Callable[[Dump], Any]
    opening: dict[str, Any]

    def __call__(self, path: str) -> Any:
        import npdump

        with npdump.open(path, **self.opening) as dump:
            return self.func(dump)


def _results(call: Call, paths: Sequence[str], client: Any, n_workers: int | None) -> Iterator[Result]:
    if client is None:
        context = on_this_machine(n_workers)
    else:
        from npdump.fleet.on_dask import on_client

        context = on_client(client)
    with context as workers:
        for path, outcome in outcomes(workers, call, paths):
            yield Result(path, outcome.value, outcome.failure, outcome.seconds)
