# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of pages for Arrow, and so for polars and DuckDB, chunk by chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npdump.extras import require

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

__all__ = ["arrow_table", "parquet"]


def arrow_table(pieces: Iterable[Mapping[str, npt.NDArray[Any]]], categories: Mapping[str, Sequence[str]]) -> Any:
    """Make a table of pieces; columns in ``categories`` hold indices into names.

    Returns
    -------
    pyarrow.Table

    Raises
    ------
    MissingDependency
    """
    pyarrow = require("pyarrow", "pyarrow", "Arrow tables")
    batches = []
    for columns in pieces:
        arrays = {}
        for name, column in columns.items():
            array = pyarrow.array(column)
            if name in categories:
                names = pyarrow.array(list(categories[name]))
                array = pyarrow.DictionaryArray.from_arrays(array.cast("int8"), names)
            arrays[name] = array
        batches.append(pyarrow.RecordBatch.from_pydict(arrays))
    return pyarrow.Table.from_batches(batches)


_TYPES = {"TEXT": "string", "INTEGER": "int64", "REAL": "float64"}


def parquet(columns: Mapping[str, tuple[str, Sequence[Any]]]) -> Any:
    """Return a Parquet file, as a buffer, of columns: SQLite's name of the type, and the values.

    Raises
    ------
    MissingDependency
    """
    pyarrow = require("pyarrow", "pyarrow", "Parquet files")
    arrays = {name: pyarrow.array(values, _TYPES[kind]) for name, (kind, values) in columns.items()}
    stream = pyarrow.BufferOutputStream()
    require("pyarrow.parquet", "pyarrow", "Parquet files").write_table(pyarrow.table(arrays), stream)
    return stream.getvalue()
