# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts about the crashed kernel: what files and notes say, without reading dumped memory."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from npdump.errors import FactError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["Fact", "Facts"]

_WORD_MASK = (1 << 64) - 1


class Fact(NamedTuple):
    """A value with the place that it came from."""

    value: int
    origin: str


class Facts:
    """Values by the key that VMCOREINFO gives them, such as ``SYMBOL(init_uts_ns)`` or ``OFFSET(page.flags)``.

    Parameters
    ----------
    values : mapping of str to Fact
    texts : mapping of str to str
        Values that are not numbers: OSRELEASE, BUILD-ID, CONFIG_X86_PAE, …
    rejected : mapping of str to str, optional
        Keys that were stated and cannot be true, each with the reason; they count as unknown.

    Examples
    --------
    >>> facts = Facts({"NUMBER(PG_lru)": Fact(4, "VMCOREINFO")}, {"OSRELEASE": "6.1.0-9"})
    >>> facts.get("NUMBER(PG_lru)"), facts.get("NUMBER(PG_slab)", 7), facts.release
    (4, 7, '6.1.0-9')
    >>> facts.rejecting({"NUMBER(PG_lru)": "it cannot be 4"}).get("NUMBER(PG_lru)", 5) is None
    True
    """

    __slots__ = ("_rejected", "_texts", "_values")

    def __init__(
        self, values: Mapping[str, Fact], texts: Mapping[str, str], rejected: Mapping[str, str] | None = None
    ) -> None:
        self._values = dict(values)
        self._texts = dict(texts)
        self._rejected = dict(rejected or {})

    def items(self) -> Iterator[tuple[str, Fact]]:
        """Yield the keys with their values, in the order in which they were stated."""
        yield from self._values.items()

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yield the keys whose values are not numbers."""
        yield from self._texts.items()

    def without(self, keys: Iterable[str]) -> Facts:
        """Return the facts less some."""
        left_out = set(keys)
        values = {key: fact for key, fact in self._values.items() if key not in left_out}
        return Facts(values, self._texts, self._rejected)

    def rejecting(self, reasons: Mapping[str, str]) -> Facts:
        """Return the facts less some that cannot be true; ``reasons`` says why, by key."""
        remaining = self.without(reasons)
        return Facts(remaining._values, remaining._texts, {**self._rejected, **reasons})

    @property
    def rejected(self) -> Mapping[str, str]:
        """Why facts that were stated are not used, by key."""
        return dict(self._rejected)

    def is_stated(self, key: str) -> bool:
        """Return whether anything was stated for ``key``, be it true or rejected."""
        return key in self or key in self._rejected

    def origin(self, key: str) -> str | None:
        """Return where the value of ``key`` came from, None if it is not known."""
        fact = self._values.get(key)
        return fact.origin if fact else None

    def completed_by(self, other: Facts, kaslr_offset: int = 0) -> tuple[Facts, list[tuple[str, str]]]:
        """Add what is known from elsewhere; what these facts state holds.

        Parameters
        ----------
        other : Facts
        kaslr_offset : int
            To be added to the other's symbols, which are those that the kernel was linked with.

        Returns
        -------
        facts : Facts
        conflicts : list of (str, str)
            The keys that the two do not agree about, with what they say in words.
        """
        values = dict(self._values)
        conflicts: list[tuple[str, str]] = []
        for key, fact in other._values.items():
            if key.startswith("SYMBOL("):
                fact = fact._replace(value=fact.value + kaslr_offset & _WORD_MASK)
            known = values.setdefault(key, fact)
            if known.value != fact.value:
                words = f"{key} is {known.value:#x} by {known.origin}, {fact.value:#x} by {fact.origin}"
                conflicts.append((key, words))
        rejected = {key: why for key, why in (other._rejected | self._rejected).items() if key not in values}
        return Facts(values, other._texts | self._texts, rejected), conflicts

    def __contains__(self, key: str) -> bool:
        return key in self._values or key in self._texts

    def get(self, key: str, default: int | None = None) -> int | None:
        """Return the value of ``key``.

        ``default`` is what kernels have that do not state it; None is returned instead if what was stated cannot be
        true.
        """
        fact = self._values.get(key)
        if fact is not None:
            return fact.value
        return None if key in self._rejected else default

    def first(self, keys: Iterable[str]) -> int | None:
        """Return the value of the first known key; for things that were renamed."""
        return next((self._values[key].value for key in keys if key in self._values), None)

    def need(self, key: str, why: str) -> int:
        """Return the value of ``key``.

        Raises
        ------
        FactError
            If it is not known; ``why`` says what it is needed for.
        """
        value = self.get(key)
        if key in self._rejected:
            raise FactError(f"{self._rejected[key]}: it is damaged, and is needed {why}")
        if value is None:
            raise FactError(f"VMCOREINFO lacks {key}, which is needed {why}")
        return value

    def text(self, key: str) -> str | None:
        """Return a value that is not a number."""
        return self._texts.get(key)

    @property
    def release(self) -> str | None:
        """The kernel's release, as ``uname -r`` prints it."""
        return self.text("OSRELEASE")

    @property
    def version(self) -> tuple[int, int, int]:
        """The release's numbers, zeros if it is not known; the last resort for what nothing else tells."""
        match = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", self.release or "")
        return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)
