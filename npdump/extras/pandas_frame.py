# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of pages and of counts as pandas data frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npdump.extras import require

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

__all__ = ["frame", "frame_of_rows"]


def frame(columns: Mapping[str, npt.NDArray[Any]], categories: Mapping[str, Sequence[str]]) -> Any:
    """Make a data frame of columns; those in ``categories`` hold indices into names.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    MissingDependency
    """
    pandas = require("pandas", "pandas", "data frames")
    made = {
        name: pandas.Categorical.from_codes(column, categories[name]) if name in categories else column
        for name, column in columns.items()
    }
    return pandas.DataFrame(made, copy=False)


def frame_of_rows(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Make a data frame of rows; what a row lacks is missing.

    Returns
    -------
    pandas.DataFrame
    """
    pandas = require("pandas", "pandas", "data frames")
    return pandas.DataFrame.from_records(list(rows))
