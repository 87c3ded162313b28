# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts as an xarray dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npdump.extras import require

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

__all__ = ["dataset"]


def dataset(
    columns: Mapping[str, tuple[tuple[str, ...], npt.NDArray[Any]]],
    names: Mapping[str, Sequence[Any]],
    attributes: Mapping[str, Any],
) -> Any:
    """Make a dataset of arrays, each with the names of its dimensions, and of what stands along each dimension.

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    MissingDependency
    """
    xarray = require("xarray", "xarray", "arrays with named dimensions")
    return xarray.Dataset(columns, {name: list(values) for name, values in names.items()}, attributes)
