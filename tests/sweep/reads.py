# SPDX-License-Identifier: GPL-2.0-or-later
"""Which facts a run looks at: to change one that nothing looks at changes nothing."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from npdump.facts import Facts

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Looked for in the text itself.
ALWAYS = {"PAGESIZE", "OSRELEASE"}


class _Noted(dict[str, Any]):
    """A dict that notes the keys that it's asked for."""

    def __init__(self, values: dict[str, Any], keys: set[str]) -> None:
        super().__init__(values)
        self._keys = keys

    def __getitem__(self, key: str) -> Any:
        self._keys.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._keys.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self._keys.add(str(key))
        return super().__contains__(key)


@contextmanager
def noted() -> Iterator[set[str]]:
    """Collect the keys of all facts that are looked at."""
    keys = set(ALWAYS)
    true_init = Facts.__init__

    def init(self: Facts, *args: Any, **kwargs: Any) -> None:
        true_init(self, *args, **kwargs)
        self._values, self._texts = _Noted(self._values, keys), _Noted(self._texts, keys)

    Facts.__init__ = init  # type: ignore[method-assign]
    try:
        yield keys
    finally:
        Facts.__init__ = true_init  # type: ignore[method-assign]
    assert keys > ALWAYS, "facts are kept in a way that this doesn't know"
