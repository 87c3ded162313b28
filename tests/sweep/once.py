# SPDX-License-Identifier: GPL-2.0-or-later
"""What is found out of a changed dump once, for all dump levels and questions: else most of a sweep goes into that.

The functions are npdump's own; what they return or raise is kept until the next change, with what they said.
"""

from __future__ import annotations

import functools
import inspect
import mmap
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import numpy as np

from npdump import opened, storage
from npdump.errors import NpdumpError
from npdump.kernel import probe, texts
from npdump.observer import Recorder
from npdump.pages import selfcheck
from npdump.storage.file import FileStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Functions that look at the whole dump, whose results depend on nothing but the dump and what is in `_KEYS`.
_SHARED = (
    (opened, "open_source"),
    (texts, "choose"),
    (probe, "find_kernel"),
    (selfcheck, "check_facts"),
    (selfcheck, "check_coverage"),
    (selfcheck, "check_struct_pages"),
)
_KEYS = ("required",)

_MAPPED_NBYTES = 64 << 20


class _InMemory(FileStorage):
    """A file that is mapped as a whole; it stays open for the next question, until `Once.forget`.

    What was looked at doesn't stay resident: it would count as memory that npdump takes.
    """

    def __init__(self, path: str, use_mmap: bool = True) -> None:
        super().__init__(path, use_mmap)
        with open(path, "rb") as file:
            self._whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = np.frombuffer(self._whole, np.uint8)
        self._n_viewed = 0

    def close(self) -> None:
        pass

    def forget(self) -> None:
        super().close()

    def view(self, offset: int, nbytes: int) -> Any:
        self._check(offset, nbytes)
        self._n_viewed += nbytes
        if self._n_viewed > _MAPPED_NBYTES:
            self._whole.madvise(mmap.MADV_DONTNEED)
            self._n_viewed = nbytes
        return self._bytes[offset : offset + nbytes]

    def read(self, offset: int, nbytes: int) -> bytes:
        return self.view(offset, nbytes).tobytes()

    def gather(self, offsets: Any, nbytes: Any, out: Any) -> None:
        at = 0
        for offset, n in zip(offsets.tolist(), nbytes.tolist(), strict=True):
            out[at : at + n] = self.view(offset, n)
            at += n


class _Found(NamedTuple):
    result: Any
    error: NpdumpError | None
    said: list[str]


class Once:
    """Results by function, until `forget`."""

    def __init__(self) -> None:
        self._found: dict[tuple[Any, ...], _Found] = {}
        self._files: list[_InMemory] = []

    def _open(self, path: str, use_mmap: bool = True) -> FileStorage:
        self._files.append(_InMemory(path, use_mmap))
        return self._files[-1]

    def forget(self) -> None:
        """The dump is another one from now on."""
        self._found.clear()
        for file in self._files:
            file.forget()
        self._files.clear()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Have the functions remember; files are mapped."""
        with mock.patch.object(storage, "FileStorage", self._open):
            patches = [mock.patch.object(owner, name, self._wrap(getattr(owner, name))) for owner, name in _SHARED]
            for patch in patches:
                patch.start()
            try:
                yield
            finally:
                for patch in patches:
                    patch.stop()
                self.forget()

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def remembering(*args: Any, **kwargs: Any) -> Any:
            call = signature.bind(*args, **kwargs)
            key = (function, *(call.arguments.get(name) for name in _KEYS))
            if key not in self._found:
                self._found[key] = _find(function, signature.bind(*args, **kwargs))
            found = self._found[key]
            for text in found.said:
                call.arguments["observer"].warn(text)
            if found.error is not None:
                raise found.error
            return found.result

        return remembering


def _find(function: Callable[..., Any], call: inspect.BoundArguments) -> _Found:
    recorder = Recorder()
    if "observer" in call.arguments:
        call.arguments["observer"] = recorder
    try:
        return _Found(function(*call.args, **call.kwargs), None, recorder.warnings)
    except NpdumpError as error:
        return _Found(None, error.with_traceback(None), recorder.warnings)
