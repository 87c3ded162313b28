# SPDX-License-Identifier: GPL-2.0-or-later
"""Progress by tqdm: a bar a stage, in a notebook as well as in a terminal."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from npdump.extras import require

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TqdmObserver"]


class TqdmObserver:
    """An `Observer` that draws progress bars, and warns by `warnings.warn`.

    Examples
    --------
    In a notebook::

        with npdump.open("vmcore", observer=TqdmObserver()) as dump:
            dump.write("small", level=31, codec="zstd")

    Raises
    ------
    MissingDependency
        If tqdm is not installed.
    """

    def __init__(self) -> None:
        self._tqdm = require("tqdm.auto", "tqdm", "progress bars").tqdm
        self._bars: dict[str, Any] = {}

    def warn(self, text: str) -> None:
        """See `npdump.observer.Observer.warn`."""
        warnings.warn(text, stacklevel=2)

    def message(self, text: str) -> None:
        """See `npdump.observer.Observer.message`."""

    def debug(self, text: str) -> None:
        """See `npdump.observer.Observer.debug`."""

    def progress(self, stage: str, done: int, total: int, nbytes: int = 0) -> None:
        """See `npdump.observer.Observer.progress`."""
        bar = self._bars.get(stage)
        if bar is None:
            bar = self._bars[stage] = self._tqdm(desc=stage, total=total, unit="pages", unit_scale=True, leave=False)
        bar.update(done - bar.n)
        if done >= total:
            self._bars.pop(stage).close()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """See `npdump.observer.Observer.stage`; bars that an error stopped are closed."""
        try:
            yield
        except BaseException:
            while self._bars:
                self._bars.popitem()[1].close()
            raise

    def took(self, name: str, seconds: float) -> None:
        """See `npdump.observer.Observer.took`."""
